"""Take out training rows that repeat evaluation items. Reads prepared data and the problems of benchmarks.

Writes the same files without those rows, and removed.jsonl, which has a line for each of them: split, row (its number
in that split, from 1), benchmark, item, overlap (the share of the item's words that the row repeats), and the text that
does. Compared are all texts of a row with the question of each item, also those that a benchmark's limit leaves out.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from pipeline.artifact import Artifact
from pipeline.downloads import Download
from pipeline.stage import Needs, Resources, Workspace
from pipeline.strict import StrictModel
from stages import _needs
from stages.benchmarks import AnyBenchmark

VERSION = 1


class Overlap(StrictModel):
    """When a row repeats an item. `stages/_data/overlap.py` says where the rule is from."""

    run_length: Annotated[int, Field(ge=1)] = 13
    """Words: a shorter run that row and item share does not count. Shorter items have to be in the row as a whole."""
    min_share: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Of the item's words; a row that shares more is taken out."""
    shortest: Annotated[int, Field(ge=1)] = 4
    """Words: shorter items are not compared, but counted as `num_too_short`."""


class Compared(StrictModel):
    """A benchmark whose items count: its own, or those of the prepared data (the test split)."""

    benchmark: AnyBenchmark
    data: Literal["own", "track"] = "own"


class Config(StrictModel):
    """The rule and the benchmarks by name, reduced to what decides their problems (`benchmarks.only_problems`)."""

    overlap: Overlap = Overlap()
    benchmarks: dict[str, Compared] = Field(min_length=1)


class Inputs(StrictModel):
    """Prepared data."""

    data: Artifact


def downloads(config: Config, roles: frozenset[str]) -> list[Download]:
    """The benchmarks' own problems."""
    from stages.benchmarks import downloads as of_benchmark

    own = (compared.benchmark for compared in config.benchmarks.values() if compared.data == "own")
    return [download for benchmark in own for download in of_benchmark(benchmark)]


def needs(config: Config, resources: Resources, known: dict[str, Artifact]) -> Needs:
    """Rows are streamed past the items of the benchmarks."""
    return _needs.streaming()


def run(config: Config, inputs: Inputs, out: Workspace, resources: Resources) -> dict[str, Any]:
    """Raises UserError if no training row is left, or a benchmark's problems cannot be read."""
    from stages._data import decontamination

    items = _items(config, inputs.data.path, out / ".cache")
    return decontamination.decontaminate(config.overlap, items, inputs.data, out)


def _items(config: Config, data_dir: Path, cache_dir: Path) -> Iterator[tuple[str, str, str]]:
    """(benchmark, id, question) of every item."""
    from stages.benchmarks import questions_of

    for name, compared in config.benchmarks.items():
        own = None if compared.data == "own" else data_dir
        for item_id, text in questions_of(compared.benchmark, own, cache_dir / name):
            yield name, item_id, text
