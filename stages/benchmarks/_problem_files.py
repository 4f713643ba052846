"""A benchmark's problems in a file of the user or of a mirror folder: rows whose fields have the types they should."""

from collections.abc import Callable, Mapping
from pathlib import Path

from pipeline.errors import UserError
from stages._data import files
from stages._data.files import Row


def read(benchmark: str, file: Path, fields: Mapping[str, type]) -> list[Row]:
    """All rows. Raises UserError for a missing or unreadable file and for a row without one of the fields."""
    if line := files.problem(file):
        raise UserError(f"{benchmark}: problems: {line}")
    try:
        rows = list(files.placed_rows(file))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{benchmark}: problems: {file}: {error}") from None
    if not rows:
        raise UserError(f"{benchmark}: problems: {file} has no rows")
    for place, row in rows:
        for name, kind in fields.items():
            if not isinstance(row.get(name), kind):
                raise UserError(f"{place}: field {name!r}: found {row.get(name)!r:.40}, expected {kind.__name__}")
    return [row for _, row in rows]


def lines_of(attempt: Callable[[], object]) -> list[str]:
    """What a UserError of `attempt` says, for a preflight."""
    try:
        attempt()
    except UserError as error:
        return list(error.problems)
    return []
