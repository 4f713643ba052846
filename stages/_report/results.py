"""What was measured: scores with standard errors and intervals, and models side by side."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stages._statistics import Interval, PairedComparison

Item = Mapping[str, Any]


@dataclass(frozen=True)
class Score:
    """One metric of one model on one benchmark. `interval` is None where it is not a mean over items."""

    model: str
    benchmark: str
    metric: str
    primary: bool
    partial: bool
    """Whether it covers fewer items than the main metric, as the score of one category does."""
    higher_is_better: bool
    value: float
    stderr: float | None
    n: int
    interval: Interval | None


@dataclass(frozen=True)
class Evaluation:
    """One model on one benchmark: its scores, what went wrong in its answers, and its items in order."""

    model: str
    benchmark: str
    step: str
    primary: str
    """The main metric; it has no score when no item could be scored."""
    higher_is_better: bool
    scores: tuple[Score, ...]
    counts: Mapping[str, int]
    meaningful: bool
    note: str
    details: Mapping[str, Any]
    items: tuple[Item, ...]


@dataclass(frozen=True)
class Comparison:
    """A model's metric beside the baseline's. `paired` is None, and `reason` says why, where no paired test applies."""

    base: Score
    tuned: Score
    meaningful: bool
    paired: PairedComparison | None
    reason: str = ""

    @property
    def difference(self) -> float:
        return self.tuned.value - self.base.value

    @property
    def num_fixed(self) -> int | None:
        """Items on which the tuned model does better."""
        return self._changed(better=True)

    @property
    def num_broken(self) -> int | None:
        """Items on which it does worse."""
        return self._changed(better=False)

    def _changed(self, better: bool) -> int | None:
        if self.paired is None:
            return None
        return self.paired.num_raised if better == self.tuned.higher_is_better else self.paired.num_lowered


@dataclass(frozen=True)
class Results:
    """Everything measured. Benchmarks whose numbers mean something come first, then by name."""

    models: tuple[str, ...]
    baseline: str
    evaluations: tuple[Evaluation, ...]
    comparisons: tuple[Comparison, ...]

    @property
    def benchmarks(self) -> list[str]:
        return list(dict.fromkeys(evaluation.benchmark for evaluation in self.evaluations))

    def of(self, benchmark: str) -> dict[str, Evaluation]:
        """The evaluations of one benchmark, by model."""
        return {each.model: each for each in self.evaluations if each.benchmark == benchmark}

    @property
    def whole(self) -> list[Comparison]:
        """The comparisons over all items of a benchmark."""
        return [each for each in self.comparisons if not each.tuned.partial]

    @property
    def parts(self) -> list[Comparison]:
        """The comparisons over a part of the items."""
        return [each for each in self.comparisons if each.tuned.partial]

    @property
    def alone(self) -> list[Score]:
        """The scores that take part in no comparison."""
        compared = {id(score) for each in self.comparisons for score in (each.base, each.tuned)}
        scores = [score for evaluation in self.evaluations for score in evaluation.scores]
        return [score for score in scores if id(score) not in compared]


def item_value(item: Item, metric: str, primary: bool) -> float | None:
    """An item's contribution to a metric: its "score" for the primary one, else its number of that name."""
    value = item.get("score") if primary else item.get(metric)
    return float(value) if isinstance(value, bool | int | float) and math.isfinite(value) else None


def item_values(items: Sequence[Item], metric: str, primary: bool) -> list[float]:
    """The values of all items that have one."""
    return [value for item in items if (value := item_value(item, metric, primary)) is not None]
