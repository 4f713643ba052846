"""`fetch RECIPE --to DIR`: bring what the recipe reads from the network, for machines without one."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.commands import arguments as shared

if TYPE_CHECKING:
    from pipeline.fetch.wanted import Listed, RemoteFile, Wanted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    shared.add_recipe(parser)
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="where it is kept; a rerun goes on there")
    parser.add_argument("--dry-run", action="store_true", help="show what would be fetched, and how much, only")
    parser.add_argument("--verify", action="store_true", help="fetch nothing: rehash every file that was fetched")


def main(arguments: argparse.Namespace) -> int:
    from pipeline import plan
    from pipeline.fetch import work
    from pipeline.fetch.listing import list_files
    from pipeline.fetch.wanted import wanted_by

    root = arguments.to.expanduser().absolute()
    if arguments.verify:
        return _verify(root)
    wanted = wanted_by(plan.load(arguments.recipe, arguments.overrides))
    if not wanted:
        print(f"{arguments.recipe}: reads nothing from the network")
        return 0
    _refuse_a_file(root)
    listed = list_files(wanted)
    _print_table(root, listed)
    num_bytes = work.to_fetch(root, listed)
    work.refuse_small_disk(root, num_bytes)
    if not arguments.dry_run:
        work.fetch(root, listed)
        print(f"everything is there and has the stated hashes; run with PIPELINE_FETCHED={root}")
    return 0


def _verify(root: Path) -> int:
    from pipeline.fetch.index import damage

    num_files, lines = damage(root)
    for line in lines:
        print(line)
    print(f"{num_files} files were rehashed: {len(lines) or 'no'} problems")
    if lines:
        print("fetch again: only they are fetched", file=sys.stderr)
    return 1 if lines else 0


def _refuse_a_file(root: Path) -> None:
    from pipeline.errors import UserError

    if root.exists() and not root.is_dir():
        raise UserError(f"--to {root}: found a file, expected a folder")


def _print_table(root: Path, listed: "list[Listed]") -> None:
    from pipeline.fetch import work

    rows = [("what", "revision", "files", "bytes", "already there", "read by")]
    for each in listed:
        there = sum(work.have(root, file) for file in each.files)
        rows.append((_what(each.wanted), each.commit[:12], *_numbers(each, there), _first(each.wanted.steps)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [
            f"{cell:>{width}}" if 2 <= column <= 4 else f"{cell:<{width}}"
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())
    total, missing = _num_bytes(work.files_of(listed)), work.to_fetch(root, listed)
    print(f"{total:,} bytes, of which {missing:,} are to be fetched to {root}")


def _numbers(each: "Listed", there: int) -> tuple[str, str, str]:
    unknown = "" if all(file.size is not None for file in each.files) else "?"
    return f"{len(each.files):,}", f"{_num_bytes(each.files):,}{unknown}", f"{there:,}"


def _num_bytes(files: "list[RemoteFile]") -> int:
    """Of all files whose size is known."""
    return sum(file.size or 0 for file in files)


def _what(wanted: "Wanted") -> str:
    return str(wanted.download).partition("@")[0]


def _first(steps: list[str]) -> str:
    return steps[0] if len(steps) == 1 else f"{steps[0]} and {len(steps) - 1} more"
