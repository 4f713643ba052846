"""math-verify's verdicts. Imported only where they are made: it brings sympy with it.

Without its own time limits: signals, which reach neither a thread nor the inside of a long integer power, and make what
took too long look wrong. `_bounded` limits the time instead.
"""

import logging

from math_verify import parse, verify

logging.getLogger("math_verify").setLevel(logging.ERROR)  # else it warns that time is not limited


def equal(answer: str, reference: str) -> bool:
    """Whether two LaTeX texts mean the same. Order matters to math-verify: the reference comes first."""
    return _verified(f"\\boxed{{{answer}}}", reference)


def equal_in(text: str, reference: str) -> bool:
    """The same for an answer in prose, as math-verify finds it there."""
    return _verified(text, reference)


def answer_in(text: str) -> str | None:
    """What math-verify takes for the answer in a text; None where it finds nothing."""
    found = parse(text, parsing_timeout=None)
    return str(found[-1]) if found else None


def _verified(text: str, reference: str) -> bool:
    gold, found = (parse(each, parsing_timeout=None) for each in (f"\\boxed{{{reference}}}", text))
    return bool(verify(gold, found, timeout_seconds=None))
