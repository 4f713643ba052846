"""Rules by which an answer to a user's question counts as right. `judge` runs in a bounded process: see `_bounded`."""

import re
from collections.abc import Sequence
from string import ascii_uppercase
from typing import Literal, NamedTuple

from stages.benchmarks._numbers import numbers

Rule = Literal["exact", "contains", "number", "choice", "math", "regex"]


class Reading(NamedTuple):
    """How answers are read; picklable."""

    rule: Rule
    extract: str | None
    """A regular expression: of its last match the first group, or the whole, is the answer."""
    ignore_case: bool


class Judged(NamedTuple):
    """What was compared (None where nothing to compare was found) and whether it is right."""

    extracted: str | None
    is_right: bool


def reference_problem(rule: Rule, reference: str) -> str | None:
    """Why a reference answer does not fit a rule, or None."""
    if rule == "number" and len(numbers(reference)) != 1:
        return "expected one number for `rule: number`"
    if rule == "choice" and not _is_letter(reference):
        return "expected a letter for `rule: choice`, or `choices` in the question's config"
    if rule == "regex" and (problem := pattern_problem(reference)):
        return f"{problem}, expected a regular expression for `rule: regex`"
    return None


def pattern_problem(pattern: str) -> str | None:
    """Why a text is no regular expression, or None."""
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        return f"no regular expression ({error})"
    return None


def judge(reading: Reading, text: str, references: Sequence[str], choices: Sequence[str]) -> Judged:
    """Whether an answer is one of the references."""
    if reading.extract is not None:
        found = list(re.finditer(reading.extract, text))
        if not found:
            return Judged(None, False)
        text = found[-1][found[-1].re.groups and 1] or ""
    return _RULES[reading.rule](reading, text, references, choices)


def _exact(reading: Reading, text: str, references: Sequence[str], choices: Sequence[str]) -> Judged:
    answer = text.strip()
    return Judged(answer, any(_same(reading, answer, each.strip()) for each in references))


def _contains(reading: Reading, text: str, references: Sequence[str], choices: Sequence[str]) -> Judged:
    return Judged(text.strip(), any(_fold(reading, each.strip()) in _fold(reading, text) for each in references))


def _number(reading: Reading, text: str, references: Sequence[str], choices: Sequence[str]) -> Judged:
    found = numbers(text)
    return Judged(str(found[-1]), found[-1] in [numbers(each)[0] for each in references]) if found else _NOTHING


def _choice(reading: Reading, text: str, references: Sequence[str], choices: Sequence[str]) -> Judged:
    letter = chosen_letter(text, choices)
    return Judged(letter, letter in [each.strip().upper() for each in references]) if letter else _NOTHING


def _math(reading: Reading, text: str, references: Sequence[str], choices: Sequence[str]) -> Judged:
    from stages.benchmarks._math_verify import answer_in, equal, equal_in

    if reading.extract is not None:
        return Judged(text, any(equal(text, each) for each in references))
    return Judged(answer_in(text), any(equal_in(text, each) for each in references))


def _regex(reading: Reading, text: str, references: Sequence[str], choices: Sequence[str]) -> Judged:
    flags = re.IGNORECASE if reading.ignore_case else re.NOFLAG
    found = next((match for each in references if (match := re.search(each, text, flags))), None)
    return Judged(found[0] if found else None, found is not None)


_NOTHING = Judged(None, False)
_RULES = {
    "exact": _exact,
    "contains": _contains,
    "number": _number,
    "choice": _choice,
    "math": _math,
    "regex": _regex,
}


def chosen_letter(text: str, choices: Sequence[str]) -> str | None:
    """The letter an answer chooses: as it says, as it begins, by the text of a choice, or the last one in brackets.

    A capital A in the middle of a sentence is no choice.
    """
    letter = f"[{ascii_uppercase[: len(choices) or None]}]"
    said = re.findall(rf"(?i:answer|choice|option)(?i:\s+is)?[\s:*($]*({letter})(?![\w'])", text)
    begun = re.match(rf"[\s*(]*({letter})(?:[\s*]*$|[).:,*]|\s*\n)", text)
    named = [ascii_uppercase[at] for at, each in enumerate(choices) if _plain(each) == _plain(text)]
    in_brackets = re.findall(rf"\(({letter})\)", text)
    found = [*said[-1:], *([begun[1]] if begun else []), *named, *in_brackets[-1:]]
    return found[0] if found else None


def _same(reading: Reading, one: str, other: str) -> bool:
    return _fold(reading, one) == _fold(reading, other)


def _fold(reading: Reading, text: str) -> str:
    return text.casefold() if reading.ignore_case else text


def _plain(text: str) -> str:
    return text.strip().rstrip(".").casefold()


def _is_letter(text: str) -> bool:
    return text.strip().upper() in set(ascii_uppercase)
