"""What was measured: scores with standard errors and intervals, and models side by side."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from stages._statistics import Interval, PairedComparison

Item = Mapping[str, Any]

FEW_METRICS = 3
"""Metrics over all items that are shown together; of more, only the main one."""


@dataclass(frozen=True)
class Score:
    """One metric of one model on one benchmark, as the scorer wrote it."""

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
    values: Mapping[str, float] = field(repr=False)
    """What the items carry of it, by their id: for the main metric their "score", else their number of that name."""
    mean_of: Literal["items", "groups"] | None
    """It is the mean of these values, or the mean of the means of their groups; then two models can be compared item by
    item. None: the items do not carry it, or it is neither."""


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
    """A model's metric beside another's. `paired` is None, and `reason` says why, where no paired test applies."""

    base: Score
    tuned: Score
    meaningful: bool
    paired: PairedComparison | None
    reason: str = ""
    fixed: tuple[str, ...] = ()
    """Ids of the items on which the tuned model does better."""
    broken: tuple[str, ...] = ()
    """Ids of those on which it does worse."""

    @property
    def difference(self) -> float:
        return self.tuned.value - self.base.value


@dataclass(frozen=True)
class Results:
    """Everything measured. Benchmarks whose numbers mean something come first, then by name."""

    models: tuple[str, ...]
    baseline: str
    evaluations: tuple[Evaluation, ...]
    comparisons: tuple[Comparison, ...]
    """Of every metric of each model with the baseline's."""
    others: tuple[Comparison, ...] = ()
    """Of the main metric of each two models that are not the baseline, the second one `tuned`."""

    @property
    def benchmarks(self) -> list[str]:
        return list(dict.fromkeys(evaluation.benchmark for evaluation in self.evaluations))

    def of(self, benchmark: str) -> dict[str, Evaluation]:
        """The evaluations of one benchmark, by model."""
        return {each.model: each for each in self.evaluations if each.benchmark == benchmark}

    def headline_metrics(self, benchmark: str) -> list[str]:
        """The metrics that stand for a benchmark: the main one, with the other ones over all items if they are few.

        What is named after the main one is a part of it ("rating_turn_1" of "rating", "algebra/exact_match").
        """
        evaluations = self.of(benchmark).values()
        whole = dict.fromkeys(score.metric for each in evaluations for score in each.scores if not score.partial)
        primary = next(iter(evaluations)).primary
        own = [metric for metric in whole if not metric.startswith(f"{primary}_") and "/" not in metric]
        return own if len(own) <= FEW_METRICS else [metric for metric in own if metric == primary]

    @property
    def headline(self) -> list[tuple[Score, Comparison | None]]:
        """The scores that stand for their benchmarks, each with its comparison with the baseline's if there is one."""
        compared = {id(each.tuned): each for each in self.comparisons}
        return [
            (score, compared.get(id(score)))
            for benchmark in self.benchmarks
            for metric in self.headline_metrics(benchmark)
            for each in self.of(benchmark).values()
            for score in each.scores
            if score.metric == metric
        ]


def values_by_name(items: Iterable[Item]) -> dict[str, dict[str, float]]:
    """Every finite number that items carry: its name -> item id -> value; for items of tasks "task/name" as well."""
    found: dict[str, dict[str, float]] = {}
    for item in items:
        name = str(item["id"])
        task = group_of(name)
        for key, value in item.items():
            if isinstance(value, bool | int | float) and math.isfinite(value):
                found.setdefault(key, {})[name] = float(value)
                if task:
                    found.setdefault(f"{task}/{key}", {})[name] = float(value)
    return found


def group_of(name: str) -> str:
    """The task of an item of several tasks, whose id is "task/number"."""
    return name.rpartition("/")[0]
