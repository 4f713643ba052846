"""Whether two mathematical answers are the same: by the rule of the MATH data set, and by math-verify.

Hendrycks's rule (Hendrycks et al. 2021, "Measuring Mathematical Problem Solving With the MATH Dataset") compares two
LaTeX texts after a fixed list of normalisations; the code used is lm-eval's (tasks/hendrycks_math/utils.py), which
goes back to github.com/hendrycks/math. math-verify (github.com/huggingface/Math-Verify) reads them into sympy.
"""

import re
from collections.abc import Sequence

MATHEMATICS = re.compile(r"(?<!\\)\$(.+)(?<!\\)\$", re.DOTALL)
"""From the first dollar to the last, as lm-eval reads an answer; \\$ is an amount of money."""


def boxed_answer(text: str) -> str | None:
    r"""What stands in the last \boxed{} or \fbox{} of a solution, as lm-eval finds it; None without one."""
    from lm_eval.tasks.hendrycks_math.utils import last_boxed_only_string, remove_boxed

    box = last_boxed_only_string(text)
    try:
        return None if box is None else str(remove_boxed(box)).strip()
    except AssertionError:  # an \fbox, or text between \boxed and its brace
        start, end = box.find("{"), box.rfind("}")
        return box[start + 1 : end].strip() if 0 <= start < end else None


def bare_answer(text: str) -> str:
    """Without a box or dollars around it."""
    box = boxed_answer(text)
    if box is not None:
        return box
    found = MATHEMATICS.search(text)
    return found[1].strip() if found else text


def hendrycks_equal(answer: str, reference: str) -> bool:
    """By Hendrycks's rule."""
    from lm_eval.tasks.hendrycks_math.utils import is_equiv

    return bool(is_equiv(answer, reference))


def math_verify_equal(pairs: Sequence[tuple[str, str]], seconds: float) -> list[bool | None]:
    """By math-verify, for pairs (answer, reference); None where it took longer than `seconds` of processor time."""
    from stages.benchmarks._bounded import bounded_map
    from stages.benchmarks._math_verify import equal

    return bounded_map(equal, pairs, seconds)
