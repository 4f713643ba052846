"""From score steps to results: read what the scorers wrote, compare each model with the baseline on equal items."""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from statistics import fmean
from typing import Any, Literal

from pipeline.errors import UserError
from stages._report import comparable
from stages._report import format as show
from stages._report.read import Step, read_json, read_json_lines
from stages._report.results import Comparison, Evaluation, Results, Score, group_of, values_by_name
from stages._statistics import BY_PROBLEM, Interval, PairedComparison, compare_by_group, compare_paired


def read_results(steps: Mapping[str, Step], models: Sequence[str], baseline: str) -> Results:
    """Read every score step and compare each model with the baseline, where that has a score on the benchmark too.

    Raises UserError, listing every problem, when two models to compare were evaluated with other settings or on
    other items.
    """
    evaluations = sorted(
        (_read_evaluation(step, *_split(step.name, models)) for step in steps.values() if step.stage == "score"),
        key=lambda each: (not each.meaningful, each.benchmark, models.index(each.model)),
    )
    base = {each.benchmark: each for each in evaluations if each.model == baseline}
    pairs = [(base[e.benchmark], e) for e in evaluations if e.model != baseline and e.benchmark in base]
    others = [
        (e, later) for (_, e), (_, later) in combinations(pairs, 2) if e.benchmark == later.benchmark
    ]  # what may be compared with the baseline may be compared with each other
    problems = [line for first, second in pairs for line in comparable.problems(second, first, steps)]
    if problems:
        raise UserError(*problems)
    return Results(
        tuple(models),
        baseline,
        tuple(evaluations),
        tuple(comparison for first, second in pairs for comparison in _compare(first, second)),
        tuple(each for first, second in others for each in _compare(first, second) if each.tuned.primary),
    )


def _split(name: str, models: Sequence[str]) -> tuple[str, str]:
    """Model and benchmark of a step: "math", "arithmetic" of "math/arithmetic/score"."""
    model, _, rest = name.partition("/")
    if model not in models or not rest.endswith("/score"):
        raise UserError(f"report: step {name!r}, expected <model>/<benchmark>/score, model in {list(models)}")
    return model, rest.removesuffix("/score")


def _read_evaluation(step: Step, model: str, benchmark: str) -> Evaluation:
    data, items = read_json(step.path / "scores.json"), tuple(read_json_lines(step.path / "items.jsonl"))
    scored = [metric for metric, row in data["metrics"].items() if row["value"] is not None]
    values = values_by_name(items)
    scores = (_score(model, benchmark, metric, data, values) for metric in scored)
    return Evaluation(
        model=model,
        benchmark=benchmark,
        step=step.name,
        primary=data["primary"],
        higher_is_better=data.get("higher_is_better", True),
        scores=tuple(sorted(scores, key=lambda score: not score.primary)),
        counts=data.get("counts") or {},
        meaningful=data.get("meaningful", True),
        note=data.get("note") or "",
        details=data.get("details") or {},
        items=items,
    )


def _score(
    model: str, benchmark: str, metric: str, data: Mapping[str, Any], carried: Mapping[str, Mapping[str, float]]
) -> Score:
    row, primary = data["metrics"][metric], metric == data["primary"]
    values = carried.get("score" if primary else metric, {})
    return Score(
        model=model,
        benchmark=benchmark,
        metric=metric,
        primary=primary,
        partial=row["n"] < data["metrics"].get(data["primary"], row)["n"],
        higher_is_better=data.get("higher_is_better", True),
        value=row["value"],
        stderr=row.get("stderr"),
        n=row["n"],
        interval=_interval(row),
        values=values,
        mean_of=_mean_of(row["value"], values),
    )


def _mean_of(value: float, values: Mapping[str, float]) -> Literal["items", "groups"] | None:
    if not values:
        return None
    if _equal(fmean(values.values()), value):
        return "items"
    groups: dict[str, list[float]] = {}
    for name, each in values.items():
        groups.setdefault(group_of(name), []).append(each)
    return "groups" if _equal(fmean(map(fmean, groups.values())), value) else None


def _equal(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-6)


def _interval(row: Mapping[str, Any]) -> Interval | None:
    low, high = row.get("low"), row.get("high")
    return None if low is None or high is None else Interval(low, high, row["interval"])


def _compare(base: Evaluation, tuned: Evaluation) -> Iterator[Comparison]:
    base_scores = {score.metric: score for score in base.scores}
    for score in tuned.scores:
        if score.metric in base_scores:
            meaningful = base.meaningful and tuned.meaningful
            yield _compare_metric(base_scores[score.metric], score, meaningful, len(tuned.items))


def _compare_metric(base: Score, tuned: Score, meaningful: bool, num_items: int) -> Comparison:
    if base.mean_of is None or tuned.mean_of is None:
        return Comparison(base, tuned, meaningful, None, "the items do not carry this metric, or it is not their mean")
    both = [name for name in tuned.values if name in base.values]
    if not both:
        return Comparison(base, tuned, meaningful, None, "no item was scored for both models")
    num_left_out = 0 if tuned.partial else num_items - len(both)
    reason = f"{show.items(num_left_out)} without a score for both left out" if num_left_out else ""
    raised = tuple(name for name in both if tuned.values[name] > base.values[name])
    lowered = tuple(name for name in both if tuned.values[name] < base.values[name])
    fixed, broken = (raised, lowered) if tuned.higher_is_better else (lowered, raised)
    return Comparison(base, tuned, meaningful, _paired(base, tuned, both), reason, fixed, broken)


def _paired(base: Score, tuned: Score, names: Sequence[str]) -> PairedComparison:
    first, second = ([score.values[name] for name in names] for score in (base, tuned))
    if "groups" in (base.mean_of, tuned.mean_of):
        return compare_by_group(first, second, [group_of(name) for name in names])
    sampled = any(each.interval is not None and each.interval.method == BY_PROBLEM for each in (base, tuned))
    return compare_paired(first, second, sampled)
