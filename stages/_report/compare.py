"""From score steps to results: read what the scorers wrote, compare each model with the baseline on equal items."""

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from pipeline.errors import UserError
from stages._report import comparable
from stages._report import format as show
from stages._report.read import Step, read_json, read_json_lines
from stages._report.results import Comparison, Evaluation, Item, Results, Score, item_value, item_values
from stages._statistics import compare_paired, mean_interval


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
    problems = [line for first, second in pairs for line in comparable.problems(second, first, steps)]
    if problems:
        raise UserError(*problems)
    comparisons = (comparison for first, second in pairs for comparison in _compare(first, second))
    return Results(tuple(models), baseline, tuple(evaluations), tuple(comparisons))


def _split(name: str, models: Sequence[str]) -> tuple[str, str]:
    """Model and benchmark of a step: "math", "arithmetic" of "math/arithmetic/score"."""
    model, _, rest = name.partition("/")
    if model not in models or not rest.endswith("/score"):
        raise UserError(f"report: step {name!r}, expected <model>/<benchmark>/score, model in {list(models)}")
    return model, rest.removesuffix("/score")


def _read_evaluation(step: Step, model: str, benchmark: str) -> Evaluation:
    data, items = read_json(step.path / "scores.json"), tuple(read_json_lines(step.path / "items.jsonl"))
    scored = [metric for metric, row in data["metrics"].items() if row["value"] is not None]
    scores = (_score(model, benchmark, metric, data, items) for metric in scored)
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


def _score(model: str, benchmark: str, metric: str, data: Mapping[str, Any], items: Sequence[Item]) -> Score:
    row, primary = data["metrics"][metric], metric == data["primary"]
    values = item_values(items, metric, primary)
    # The items' mean must be the metric: a correlation, say, is no mean, and its items cannot be tested in pairs.
    is_mean = bool(values) and math.isclose(fmean(values), row["value"], rel_tol=1e-6, abs_tol=1e-6)
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
        interval=mean_interval(values) if is_mean else None,
    )


def _compare(base: Evaluation, tuned: Evaluation) -> Iterator[Comparison]:
    base_scores = {score.metric: score for score in base.scores}
    for score in tuned.scores:
        if score.metric in base_scores:
            yield _compare_metric(base_scores[score.metric], score, base, tuned)


def _compare_metric(base: Score, tuned: Score, first: Evaluation, second: Evaluation) -> Comparison:
    meaningful = first.meaningful and second.meaningful
    if base.interval is None or tuned.interval is None:
        return Comparison(base, tuned, meaningful, None, "the items do not carry this metric, or it is not their mean")
    of_base = {item["id"]: item_value(item, base.metric, base.primary) for item in first.items}
    pairs = [(of_base[item["id"]], item_value(item, tuned.metric, tuned.primary)) for item in second.items]
    both = [(a, b) for a, b in pairs if a is not None and b is not None]
    if not both:
        return Comparison(base, tuned, meaningful, None, "no item was scored for both models")
    num_left_out = 0 if tuned.partial else len(pairs) - len(both)
    reason = f"{show.items(num_left_out)} without a score for both left out" if num_left_out else ""
    return Comparison(base, tuned, meaningful, compare_paired([a for a, _ in both], [b for _, b in both]), reason)
