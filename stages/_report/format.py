"""Numbers as a reader wants them. Every function turns None into a dash."""

import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from stages._statistics import Interval

DASH = "–"
MINUS = "\N{MINUS SIGN}"


def number(value: float | None, digits: int = 3) -> str:
    """A measured value with fixed decimals: 0.315, 6.250."""
    return DASH if value is None else f"{value:.{digits}f}".replace("-", MINUS)


def signed(value: float | None, digits: int = 3) -> str:
    """A difference, whose sign is always shown."""
    return DASH if value is None else f"{value:+.{digits}f}".replace("-", MINUS)


def with_error(text: str, stderr: float | None, digits: int = 3, space: str = " ") -> str:
    """`text` ± one standard error, where there is one."""
    return text if stderr is None else f"{text}{space}±{space}{stderr:.{digits}f}"


def interval(value: Interval | None, digits: int = 3) -> str:
    """[0.214, 0.385]."""
    return DASH if value is None else f"[{number(value.low, digits)}, {number(value.high, digits)}]"


def signed_interval(value: Interval | None, digits: int = 3) -> str:
    """[-0.014, +0.185], of a difference."""
    return DASH if value is None else f"[{signed(value.low, digits)}, {signed(value.high, digits)}]"


def items(number: int) -> str:
    """1 item, 2 items."""
    return f"{grouped(number)} item{'' if number == 1 else 's'}"


def unbroken(text: str) -> str:
    """Words that stay on one line; underscores become spaces as well."""
    return text.replace("_", " ").replace(" ", "\N{NO-BREAK SPACE}")


def p_value(value: float | None) -> str:
    """Two digits: 0.031; powers of ten below a thousandth: 3e-12."""
    if value is None:
        return DASH
    if value < 1e-99:
        return "<1e-99"
    if value < 1e-3:
        return f"{value:.0e}".replace("e-0", "e-")
    return f"{value:.2g}"


def general(value: object) -> str:
    """Anything a metric can be: integers grouped, fractions with four significant digits, the rest as it is."""
    if value is None:
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return grouped(value)
    if isinstance(value, float):
        return grouped(int(value)) if value.is_integer() and abs(value) >= 1000 else f"{value:.4g}".replace("e-0", "e-")
    if isinstance(value, list | tuple):
        return ", ".join(map(general, value)) or "none"
    return str(value)


def grouped(value: int | None) -> str:
    """1,234,567."""
    return DASH if value is None else f"{value:,}"


def seconds(value: float | None) -> str:
    """0.4 s, 12 s, 3 min 05 s, 2 h 07 min."""
    if value is None:
        return DASH
    if value < 9.95:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def clock(value: float | None) -> str:
    """Where room is short: 0.4 s, 12 s, 3:05, 2:07 h."""
    if value is None or value < 59.5:
        return seconds(value)
    whole = round(value)
    return f"{whole // 60}:{whole % 60:02d}" if whole < 3600 else f"{whole // 3600}:{whole % 3600 // 60:02d} h"


def moment(timestamp: str | None) -> str:
    """2026-01-02 03:04 UTC of an ISO 8601 time."""
    if timestamp is None:
        return DASH
    return datetime.fromisoformat(timestamp).astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def size(num_bytes: float | None) -> str:
    """820 KiB, 1.4 GiB."""
    if num_bytes is None:
        return DASH
    if num_bytes < 1024:
        return f"{num_bytes:.0f} B"
    power = min(4, int(math.log(num_bytes, 1024)))
    scaled = num_bytes / 1024**power
    return f"{scaled:.{0 if scaled >= 10 else 1}f} {['B', 'KiB', 'MiB', 'GiB', 'TiB'][power]}"


def count(value: int | None) -> str:
    """A rough large number: 950, 4.9 million, 7.2 billion."""
    if value is None:
        return DASH
    for unit, name in ((1_000_000_000, "billion"), (1_000_000, "million")):
        if value >= unit:
            return f"{value / unit:.3g} {name}"
    return grouped(value)


def of_key(key: str) -> Callable[[Any], str]:
    """How to show a value whose name ends in its unit."""
    if key.endswith("_bytes"):
        return size
    return seconds if key.endswith("_seconds") else general


def short(fingerprint: str) -> str:
    """The first 12 digits, enough to find an artifact in the store."""
    return fingerprint[:12]
