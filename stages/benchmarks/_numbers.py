"""Numbers in answers: as the paper's own code reads them, and as they are written."""

import re
from fractions import Fraction

REFERENCE = re.compile(r"[-+]?\d*[.,/]?\d+")
"""github.com/TracyGuo2001/NLoRA, evaluate/gsm8k/gsm8k_evaluate.py: digits with at most one of ". , /" between them."""

WRITTEN = re.compile(
    r"""
    (?:(?<![\w)])(?P<sign>[-\u2212]?\\?\$?[-\u2212]?))?        # -3, -$3, $-3; but 5-3 is a subtraction
    (?P<digits>(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)
    (?:[eE](?P<exponent>[-+]?\d{1,2})(?![\d.])|/(?P<divisor>\d+))?
    """,
    re.VERBOSE | re.ASCII,
)


def reference_number(text: str) -> int | None:
    """The first number, rounded to a whole one (halves to the even neighbour), or None.

    At most two groups of digits: "1,234,567" is 1234. Where the paper's code would break off with an error (a divisor
    such as 00, a number too large for a float), there is none.
    """
    found = REFERENCE.search(text)
    if not found:
        return None
    numerator, slash, denominator = found[0].replace(",", "").partition("/")
    try:
        if slash and denominator != "0":  # over zero it takes the numerator
            return round(float(Fraction(int(numerator), int(denominator))))
        return round(float(numerator))
    except (ValueError, ZeroDivisionError, OverflowError):
        return None


def numbers(text: str) -> list[Fraction]:
    """The exact values of all numbers in a text: sign, groups of three digits, decimals, exponent or fraction.

    Units, money and percent signs do not count: 50% is 50.
    """
    return [value for match in WRITTEN.finditer(text) if (value := _value(match)) is not None]


def _value(match: re.Match[str]) -> Fraction | None:
    try:
        size = Fraction(match["digits"].replace(",", "")) * Fraction(10) ** int(match["exponent"] or 0)
        size /= int(match["divisor"] or 1)
    except (ValueError, ZeroDivisionError):  # thousands of digits; a divisor of zero
        return None
    return -size if re.search("[-\u2212]", match["sign"] or "") else size
