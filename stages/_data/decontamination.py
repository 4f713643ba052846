"""Training rows without those that repeat evaluation items. Rows are streamed; only the items are kept in memory."""

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from pipeline.artifact import MANIFEST, Artifact
from pipeline.errors import UserError
from pipeline.stage import Workspace
from stages._data import files
from stages._data.overlap import Index, Match, texts_in

if TYPE_CHECKING:
    from stages.decontaminate import Overlap

SPLITS = ("train", "validation")
"""The test split is an evaluation set itself."""
BETWEEN_REPORTS = 10_000


def decontaminate(
    overlap: "Overlap", items: Iterable[tuple[str, str, str]], data: Artifact, out: Workspace
) -> dict[str, Any]:
    """Counts of rows and items. `items`: (benchmark, id, question). Raises UserError if no training row is left."""
    index, num_items, num_too_short = Index(**overlap.model_dump()), Counter[str](), Counter[str]()
    for benchmark, item_id, text in items:
        num_items[benchmark] += 1
        num_too_short[benchmark] += not index.add(benchmark, item_id, text)
    splits = [split for split in SPLITS if (data / f"{split}.jsonl").exists()]
    with (out / "removed.jsonl").open("w", encoding="utf-8") as removed:
        counts = {split: _filter(index, split, data, out, removed) for split in splits}
    for file in data.path.iterdir():
        if file.is_file() and file.name not in {MANIFEST, *(f"{split}.jsonl" for split in splits)}:
            shutil.copyfile(file, out / file.name)
    return {"num_items": dict(num_items), "num_too_short": dict(+num_too_short), **counts}


def _filter(index: Index, split: str, data: Artifact, out: Workspace, removed: TextIO) -> dict[str, Any]:
    file, num_rows, by_benchmark = data / f"{split}.jsonl", 0, Counter[str]()
    with (out / file.name).open("w", encoding="utf-8") as kept:
        for num_rows, line, row in _rows(file):
            match = index.match(texts_in(row))
            if match is None:
                kept.write(line)
            else:
                by_benchmark[match.item.benchmark] += 1
                removed.write(json.dumps(_record(split, num_rows, match), ensure_ascii=False) + "\n")
            if num_rows % BETWEEN_REPORTS == 0:
                out.progress(num_rows, num_removed=by_benchmark.total())
    if split == "train" and num_rows == by_benchmark.total():
        raise UserError(
            f"decontaminate: found a repeated evaluation item in each of the {num_rows} training rows, expected some "
            "rows without; see removed.jsonl"
        )
    return {"num_rows": num_rows, "num_removed": by_benchmark.total(), "removed": dict(by_benchmark)}


def _record(split: str, row: int, match: Match) -> dict[str, Any]:
    return {
        "split": split,
        "row": row,
        "benchmark": match.item.benchmark,
        "item": match.item.id,
        "overlap": round(match.share, 3),
        "text": match.text,
    }


def _rows(file: Path) -> Iterator[tuple[int, str, files.Row]]:
    """(number, line, row): prepared data has one row in each line."""
    with file.open(encoding="utf-8") as lines:
        for number, (line, row) in enumerate(zip(lines, files.read_rows(file), strict=True), start=1):
            yield number, line, row
