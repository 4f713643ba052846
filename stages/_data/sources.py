"""Where rows come from: what can go wrong, known before reading them, and the rows of each split."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import UserError
from pipeline.stage import Workspace
from stages._data import files, generators, hub
from stages._data.files import Row

if TYPE_CHECKING:
    from stages.prepare_data import Files, Generated, Hub, Mix

SPLITS = ("train", "validation", "test")


def problems(source: Generated | Hub | Files | Mix, where: str = "source") -> list[str]:
    """Why this source cannot be used here and now; one line each."""
    if source.kind == "mix":
        parts = source.parts.items()
        return [line for name, part in parts for line in problems(part.source, f"{where}.parts.{name}.source")]
    if source.kind == "files":
        named = _named(source).items()
        return [f"{where}.{split}: {line}" for split, path in named if (line := files.problem(files.sliced(path)[0]))]
    if source.kind == "hub":
        line = hub.problem(source.name, source.revision)
        return [line] if line else []
    return []


def splits(source: Generated | Hub | Files) -> dict[str, Iterable[Row]]:
    """The rows of each split the source has."""
    if source.kind == "generated":
        options = generators.options(source.generator, source.options)
        generate = generators.load(source.generator).generate
        return generate(options, source.seed, source.num_train, source.num_validation, source.num_test)
    if source.kind == "hub":
        return {
            split: hub.rows(source.name, source.revision, source.config_name, part)
            for split, part in _named(source).items()
        }
    return {split: files.read_slice(path) for split, path in _named(source).items()}


def clear(out: Workspace) -> None:
    """Remove what an interrupted run may have left."""
    for split in SPLITS:
        (out / f"{split}.jsonl").unlink(missing_ok=True)


def write(source: Generated | Hub | Files, out: Workspace) -> None:
    """Write `<split>.jsonl` for each split."""
    for split, rows in splits(source).items():
        files.write_jsonl(out / f"{split}.jsonl", rows)


def finish(out: Workspace, carve_validation: int, seed: int) -> dict[str, int]:
    """Carve validation rows off if asked to; rows per split. Raises UserError if nothing is left to train on."""
    written = {split: out / f"{split}.jsonl" for split in SPLITS}
    num_rows = {split: count_lines(file) for split, file in written.items() if file.exists()}
    if carve_validation:
        num_rows |= _carve(out, num_rows["train"], carve_validation, seed)
    for split, count in num_rows.items():
        if not count:
            raise UserError(f"{split}: the source has no rows")
    return num_rows


def count_lines(file: Path) -> int:
    """Rows of a JSON lines file of ours, which has no empty lines."""
    with file.open("rb") as lines:
        return sum(1 for _ in lines)


def _carve(out: Workspace, num_rows: int, num_validation: int, seed: int) -> dict[str, int]:
    """Move randomly chosen lines of train.jsonl to validation.jsonl; both keep their order."""
    if num_validation >= num_rows:
        raise UserError(f"carve_validation: {num_validation} of {num_rows} training rows leave none to train on")
    chosen = set(random.Random(seed).sample(range(num_rows), num_validation))
    whole, rest = out / "train.jsonl", out / ".train.jsonl"
    with whole.open("rb") as lines, rest.open("wb") as train, (out / "validation.jsonl").open("wb") as validation:
        for number, line in enumerate(lines):
            (validation if number in chosen else train).write(line)
    rest.replace(whole)
    return {"train": num_rows - num_validation, "validation": num_validation}


def _named(source: Hub | Files) -> dict[str, Any]:
    """Split name -> file or hub slice, for the splits that the source names."""
    return {split: value for split in SPLITS if (value := getattr(source, split)) is not None}
