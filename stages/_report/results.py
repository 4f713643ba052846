"""Scores with standard errors and intervals, and each model against the baseline on equal items."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from pipeline.errors import UserError
from stages._report.read import Step, read_json, read_json_lines
from stages._statistics import Interval, PairedComparison, compare_paired, mean_interval

Item = Mapping[str, Any]


@dataclass(frozen=True)
class Score:
    """One metric of one model on one benchmark. `interval` is None where it is not a mean over items."""

    model: str
    benchmark: str
    metric: str
    primary: bool
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
    scores: tuple[Score, ...]
    counts: Mapping[str, int]
    meaningful: bool
    note: str
    items: tuple[Item, ...]


@dataclass(frozen=True)
class Comparison:
    """A model's metric beside the baseline's. `paired` is None, and `reason` says why, where no paired test applies."""

    base: Score
    tuned: Score
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


def read_results(steps: Mapping[str, Step], models: Sequence[str], baseline: str) -> Results:
    """Read every score step and compare each model with the baseline.

    Raises UserError, listing every problem, when a benchmark has no baseline, the two were scored with different
    settings, or their items differ.
    """
    evaluations = sorted(
        (_read_evaluation(step, *_split(step.name, models)) for step in steps.values() if step.stage == "score"),
        key=lambda each: (not each.meaningful, each.benchmark, models.index(each.model)),
    )
    base = {each.benchmark: each for each in evaluations if each.model == baseline}
    tuned = [each for each in evaluations if each.model != baseline]
    problems = [line for each in tuned for line in _unfit(each, base.get(each.benchmark), baseline, steps)]
    if problems:
        raise UserError(*problems)
    compared = (comparison for each in tuned for comparison in _compare(base[each.benchmark], each))
    return Results(tuple(models), baseline, tuple(evaluations), tuple(compared))


def item_value(item: Item, metric: str, primary: bool) -> float | None:
    """An item's contribution to a metric: its "score" for the primary one, else its number of that name."""
    value = item.get("score") if primary else item.get(metric)
    return float(value) if isinstance(value, bool | int | float) and math.isfinite(value) else None


def _split(name: str, models: Sequence[str]) -> tuple[str, str]:
    """Model and benchmark of a step: "math", "arithmetic" of "math/arithmetic/score"."""
    model, _, rest = name.partition("/")
    if model not in models or not rest.endswith("/score"):
        raise UserError(f"report: step {name!r}, expected <model>/<benchmark>/score, model in {list(models)}")
    return model, rest.removesuffix("/score")


def _read_evaluation(step: Step, model: str, benchmark: str) -> Evaluation:
    data, items = read_json(step.path / "scores.json"), tuple(read_json_lines(step.path / "items.jsonl"))
    scores = (_score(model, benchmark, metric, data, items) for metric in data["metrics"])
    return Evaluation(
        model=model,
        benchmark=benchmark,
        step=step.name,
        scores=tuple(sorted(scores, key=lambda score: not score.primary)),
        counts=data.get("counts") or {},
        meaningful=data.get("meaningful", True),
        note=data.get("note") or "",
        items=items,
    )


def _score(model: str, benchmark: str, metric: str, data: Mapping[str, Any], items: Sequence[Item]) -> Score:
    row, primary = data["metrics"][metric], metric == data["primary"]
    values = _item_values(items, metric, primary, row["value"])
    return Score(
        model=model,
        benchmark=benchmark,
        metric=metric,
        primary=primary,
        higher_is_better=data.get("higher_is_better", True),
        value=row["value"],
        stderr=row.get("stderr"),
        n=row["n"],
        interval=mean_interval(values) if values else None,
    )


def _item_values(items: Sequence[Item], metric: str, primary: bool, value: float) -> list[float] | None:
    """The items' values where their mean is the metric; None for a metric that is no mean (a correlation, say)."""
    values = [found for item in items if (found := item_value(item, metric, primary)) is not None]
    return values if values and math.isclose(fmean(values), value, rel_tol=1e-6, abs_tol=1e-6) else None


def _unfit(tuned: Evaluation, base: Evaluation | None, baseline: str, steps: Mapping[str, Step]) -> Iterator[str]:
    """Why `tuned` cannot be compared with the baseline, one line each."""
    if base is None:
        yield f"{tuned.step}: the baseline has no score, expected a step {baseline}/{tuned.benchmark}/score"
        return
    if steps[base.step].config != steps[tuned.step].config:
        yield f"{tuned.step}: scored with other settings than {base.step}; evaluate both with the same settings"
    for each, other in ((base, tuned), (tuned, base)):
        if len(_ids(each)) < len(each.items):
            yield f"{each.step}: an item id occurs twice, expected one item an id"
        if missing := sorted(_ids(other) - _ids(each)):
            what = f"{len(missing)} items of {other.step} are missing ({_some(missing)})"
            yield f"{each.step}: {what}; score the same items"


def _ids(evaluation: Evaluation) -> set[str]:
    return {str(item["id"]) for item in evaluation.items}


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _compare(base: Evaluation, tuned: Evaluation) -> Iterator[Comparison]:
    base_scores = {score.metric: score for score in base.scores}
    for score in tuned.scores:
        if score.metric in base_scores:
            yield _compare_metric(base_scores[score.metric], score, base.items, tuned.items)


def _compare_metric(base: Score, tuned: Score, base_items: Sequence[Item], tuned_items: Sequence[Item]) -> Comparison:
    if base.interval is None or tuned.interval is None:
        return Comparison(base, tuned, None, "the items do not carry this metric, or it is not their mean")
    of_base = {item["id"]: item_value(item, base.metric, base.primary) for item in base_items}
    pairs = [(of_base[item["id"]], item_value(item, tuned.metric, tuned.primary)) for item in tuned_items]
    both = [(first, second) for first, second in pairs if first is not None and second is not None]
    if not both:
        return Comparison(base, tuned, None, "no item was scored for both models")
    num_left_out = len(pairs) - len(both)
    reason = f"{num_left_out} items without a score for both were left out" if num_left_out else ""
    return Comparison(base, tuned, compare_paired([a for a, _ in both], [b for _, b in both]), reason)
