"""The end of a log, however long the log is."""

from pathlib import Path

TAIL_BYTES = 16_384
LONGEST_LINE = 500
"""Characters of a line that are shown; the log has all of them."""


def last_lines(log: Path, count: int, start: int = 0) -> list[str]:
    """The last lines from byte `start` on, none of them longer than a terminal is patient; none without a log."""
    try:
        with log.open("rb") as file:
            file.seek(max(start, log.stat().st_size - TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    lines = text.replace("\r", "\n").rstrip().splitlines()[-count:]
    return [line if len(line) <= LONGEST_LINE else f"{line[:LONGEST_LINE]} ..." for line in lines]
