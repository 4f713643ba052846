"""Rows in files: JSON lines (gzipped or not), JSON, Parquet and CSV in, JSON lines out.

A row is a dict from field name to value.
"""

import csv
import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from stages._data import json_list

Row = dict[str, Any]
PlacedRow = tuple[str, Row]
"""A row and where it is, for messages: "file:line" or "file: row n"."""


SLICE = re.compile(r"\[(\d*):(\d*)\]$")


def sliced(path: Path) -> tuple[Path, slice]:
    """The file and its rows that `rows.jsonl[:1000]` or `rows.jsonl[1000:2000]` mean; without brackets all of them."""
    found = SLICE.search(path.name)
    if not found:
        return path, slice(None)
    start, stop = (int(number) if number else None for number in found.groups())
    return path.with_name(path.name[: found.start()]), slice(start, stop)


def read_slice(path: Path) -> Iterator[Row]:
    """The rows that `rows.jsonl[:1000]` names, as `read_rows` does."""
    file, part = sliced(path)
    return islice(read_rows(file), part.start, part.stop)


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a file, read as they are asked for: memory does not grow with the file.

    Raises UserError for an unknown suffix, or naming the file and line of what is not a row.
    """
    return (row for _, row in placed_rows(path))


def placed_rows(path: Path) -> Iterator[PlacedRow]:
    """The same, each row with its place."""
    return reader(path)(path)


def problem(path: Path) -> str | None:
    """Why a file cannot be read, from its name alone and whether it is there; None if it can."""
    try:
        reader(path)
    except UserError as error:
        return str(error)
    return None if path.is_file() else f"{path} does not exist; relative paths start at the recipe"


def reader(path: Path) -> Callable[[Path], Iterator[PlacedRow]]:
    """How a file of this name is read. Raises UserError listing the known suffixes."""
    for suffix, read in READERS.items():
        if path.name.lower().endswith(suffix):
            return read
    hint = " (a slice is [start:stop], in rows)" if path.name.endswith("]") else ""
    raise UserError(
        f"{path}: cannot read {path.suffix or 'a file without a suffix'}{hint}, known: {', '.join(READERS)}"
    )


def write_jsonl(path: Path, rows: Iterable[Row], append: bool = False) -> int:
    """Write one JSON object a line; the number of rows. Raises UserError naming a row that JSON cannot hold."""
    count = 0
    with path.open("a" if append else "w", encoding="utf-8") as file:
        for count, row in enumerate(rows, start=1):
            try:
                file.write(json.dumps(row, ensure_ascii=False, default=_plain) + "\n")
            except (TypeError, ValueError) as error:
                raise UserError(
                    f"{path.name}: row {count}: {error}; expected text, numbers, lists and objects"
                ) from None
    return count


def _read_jsonl(path: Path) -> Iterator[PlacedRow]:
    with path.open(encoding="utf-8") as file:
        yield from _lines(file, path)


def _read_gzipped_jsonl(path: Path) -> Iterator[PlacedRow]:
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            yield from _lines(file, path)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path}: not a whole gzip file: {error}") from None


def _lines(file: Iterable[str], path: Path) -> Iterator[PlacedRow]:
    for number, line in enumerate(file, start=1):
        if line.strip():
            place = f"{path}:{number}"
            yield place, _row(_parse(line, place), place)


def _read_json(path: Path) -> Iterator[PlacedRow]:
    number = 0
    with path.open(encoding="utf-8") as file:
        try:
            for number, row in enumerate(json_list.elements(file), start=1):
                place = f"{path}: row {number}"
                yield place, _row(row, place)
        except json_list.NoList:
            file.seek(0)
            raise UserError(
                f"{path}: found {_kind(_parse(file.read(), str(path)))}, expected a list of objects "
                "(for one object a line use .jsonl)"
            ) from None
        except json.JSONDecodeError as error:
            raise UserError(f"{path}: after row {number}: not JSON: {error.msg}") from None


def _read_csv(path: Path) -> Iterator[PlacedRow]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        for row in (lines := csv.DictReader(file)):
            place = f"{path}:{lines.line_num}"
            if None in row or None in row.values():
                expected = len(lines.fieldnames or [])
                raise UserError(f"{place}: not {expected} cells, as many as the first line has names")
            yield place, row


def _read_parquet(path: Path) -> Iterator[PlacedRow]:
    import pyarrow.parquet

    try:
        batches = pyarrow.parquet.ParquetFile(path).iter_batches()
        rows = (row for batch in batches for row in batch.to_pylist())
        for number, row in enumerate(rows, start=1):
            yield f"{path}: row {number}", row
    except pyarrow.ArrowException as error:
        raise UserError(f"{path}: not a Parquet file that can be read: {error}") from None


READERS = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".parquet": _read_parquet,
    ".csv": _read_csv,
    ".jsonl.gz": _read_gzipped_jsonl,
}


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not JSON: {error}") from None


def _row(value: Any, where: str) -> Row:
    if not isinstance(value, dict):
        raise UserError(f"{where}: found {_kind(value)}, expected an object with named fields")
    return value


def _kind(value: Any) -> str:
    names = {"list": "a list", "dict": "an object", "str": "a string", "NoneType": "nothing"}
    return names.get(type(value).__name__, type(value).__name__)


def _plain(value: Any) -> Any:
    """Dates and the like as text; everything else is refused."""
    if hasattr(value, "isoformat"):
        return value.isoformat()
    raise TypeError(f"found a {type(value).__name__}")
