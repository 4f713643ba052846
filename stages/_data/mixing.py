"""One training set from several sources.

Each part is first written out by itself, which tells how many rows it has; then its share is chosen at random and the
parts are interleaved at random, line by line, so that memory does not grow with the data. Equal sources, shares and
seed give equal files, in whatever order the recipe names the parts.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import UserError
from pipeline.stage import Workspace
from stages._data import files, formats, sources
from stages._data.files import Row

if TYPE_CHECKING:
    from stages.prepare_data import Mix, Part


@dataclass
class Taken:
    """What became of one part."""

    num_available: int
    """Rows its source has for training, without empty ones."""
    num_empty: int
    """Rows left out because their prompt or response is empty."""
    num_taken: int = 0
    """Rows in the training set, repeated ones included."""
    num_repeated: int = 0
    """Rows that are there once more."""


def write(mix: Mix, out: Workspace, seed: int) -> dict[str, dict[str, int]]:
    """Write the splits; what was taken of each part. Raises UserError when a part has too few rows."""
    written = {name: _write_part(name, mix.parts[name], out) for name in sorted(mix.parts)}
    taken = {name: part for name, (part, _) in written.items()}
    counts = shares(mix, {name: part.num_available for name, part in taken.items()})
    streams = {
        name: _choose(file, taken[name].num_available, counts[name], f"{seed}:{name}")
        for name, (_, file) in written.items()
    }
    with (out / "train.jsonl").open("wb") as train:
        train.writelines(interleave(streams, counts, seed))
    for name, part in taken.items():
        part.num_taken, part.num_repeated = counts[name], max(0, counts[name] - part.num_available)
        written[name][1].unlink()
    return {name: asdict(part) for name, part in taken.items()}


def shares(mix: Mix, available: Mapping[str, int]) -> dict[str, int]:
    """Rows to take of each part. Raises UserError, with the numbers, where a part that may not repeat has too few."""
    for name, found in available.items():
        if not found:
            raise UserError(f"source.parts.{name}: the source has no rows")
    if mix.num_rows is None and any(part.weight for part in mix.parts.values()):
        return _largest(mix, available)
    counts = by_weight(_weights(mix), mix.num_rows) if mix.num_rows else _counts(mix)
    for name, wanted in counts.items():
        if not wanted:
            raise UserError(
                f"source.parts.{name}: its share of {mix.num_rows} rows is none; raise num_rows or its weight"
            )
        if wanted > available[name] and not mix.parts[name].repeat:
            raise UserError(_too_few(mix, name, wanted, available))
    return counts


def by_weight(weights: Mapping[str, Fraction], num_rows: int) -> dict[str, int]:
    """`num_rows` in these shares: rounded down, and what is missing then given to the largest remainders."""
    exact = {name: num_rows * weight / sum(weights.values()) for name, weight in weights.items()}
    counts = {name: int(share) for name, share in exact.items()}
    by_remainder = sorted(exact, key=lambda name: (counts[name] - exact[name], name))
    for name in by_remainder[: num_rows - sum(counts.values())]:
        counts[name] += 1
    return counts


def interleave(streams: Mapping[str, Iterator[bytes]], counts: Mapping[str, int], seed: int) -> Iterator[bytes]:
    """All lines, each stream in its own order, every order of the streams' turns being equally likely."""
    random_turns, left = random.Random(f"{seed}:turns"), dict(counts)
    for total in range(sum(left.values()), 0, -1):
        turn = random_turns.randrange(total)
        for name in left:
            if turn < left[name]:
                left[name] -= 1
                yield next(streams[name])
                break
            turn -= left[name]


def _weights(mix: Mix) -> dict[str, Fraction]:
    return {name: Fraction(mix.parts[name].weight or 0) for name in sorted(mix.parts)}


def _counts(mix: Mix) -> dict[str, int]:
    return {name: mix.parts[name].count or 0 for name in sorted(mix.parts)}


def _largest(mix: Mix, available: Mapping[str, int]) -> dict[str, int]:
    """The most rows in the wanted shares for which no part has to repeat that may not."""
    weights = _weights(mix)
    limited = [name for name in weights if not mix.parts[name].repeat]
    num_rows = int(min((available[name] + 1) * sum(weights.values()) / weights[name] for name in limited))
    while num_rows:
        counts = by_weight(weights, num_rows)
        if all(counts[name] <= available[name] for name in limited):
            break
        num_rows -= 1
    if not num_rows or not all(counts.values()):
        has = ", ".join(f"{name} {found}" for name, found in available.items())
        raise UserError(f"source.parts: too few rows for these weights ({has}); a part would have none")
    return counts


def _too_few(mix: Mix, name: str, wanted: int, available: Mapping[str, int]) -> str:
    has = f"source.parts.{name}: found {available[name]:,} rows, but "
    if mix.num_rows is None:
        return f"{has}count is {wanted:,}; lower it, or set repeat: true"
    most = sum(_largest(mix, available).values())
    return (
        f"{has}its share of num_rows {mix.num_rows:,} is {wanted:,}; these shares hold for {most:,} rows at most "
        "(as many are taken without num_rows); or set repeat: true"
    )


def _write_part(name: str, part: Part, out: Workspace) -> tuple[Taken, Path]:
    """Its training rows in a file of their own, its other splits where they belong."""
    splits = dict(sources.splits(part.source))
    file, where = out / f".part-{name}.jsonl", f"source.parts.{name}"
    empty = [0]
    num_rows = files.write_jsonl(file, _normalised(part, splits.pop("train"), f"{where}: train", empty))
    if "test" in splits:
        files.write_jsonl(out / "test.jsonl", splits["test"])
    if "validation" in splits:
        rows = _normalised(part, splits["validation"], f"{where}: validation", [0])
        files.write_jsonl(out / "validation.jsonl", rows, append=True)
    return Taken(num_rows, empty[0]), file


def _normalised(part: Part, rows: Iterable[Row], where: str, empty: list[int]) -> Iterator[Row]:
    """The rows as {"messages": [...]} if the part has a format; adds to `empty[0]` those left out."""
    if part.format is None:
        yield from rows
        return
    for chunk in formats.chunks(part.format, rows, where, drop_empty=part.on_empty == "drop"):
        empty[0] += chunk.num_rows - len(chunk.examples)
        for _, example in chunk.examples:
            yield {"messages": example.conversation()}


def _choose(file: Path, available: int, wanted: int, seed: str) -> Iterator[bytes]:
    """`wanted` of the file's lines: all as often as they fit, then a random choice, in their order."""
    passes, rest = divmod(wanted, available)
    return chain(*(_lines(file) for _ in range(passes)), _sample(_lines(file), available, rest, random.Random(seed)))


def _sample(lines: Iterator[bytes], available: int, wanted: int, randomness: random.Random) -> Iterator[bytes]:
    """Selection sampling (Knuth, The Art of Computer Programming 2, algorithm 3.4.2 S): every choice equally likely."""
    for left, line in zip(range(available, 0, -1), lines, strict=True):
        if not wanted:
            return
        if randomness.randrange(left) < wanted:
            wanted -= 1
            yield line


def _lines(file: Path) -> Iterator[bytes]:
    with file.open("rb") as lines:
        yield from lines
