"""The metrics that do not stand for their benchmark: those of a part of its items (a subject) and other rules."""

from collections.abc import Collection
from dataclasses import dataclass

from stages._report.results import Comparison, Results, Score

Entry = tuple[Score, Comparison | None]
"""A score, with its comparison with the baseline's."""


@dataclass(frozen=True)
class Parts:
    """A table: one row a part, for each model the metrics that parts have; parts without a metric's score have none."""

    benchmark: str
    models: tuple[str, ...]
    metrics: tuple[str, ...]
    rows: tuple[tuple[str, int, tuple[Entry | None, ...]], ...]
    """(part, items, entries: every metric of the first model, then of the second, ...)"""


def parts(results: Results, shown: Collection[Score]) -> list[Parts]:
    """Of every benchmark that has any, without the scores that are shown elsewhere."""
    elsewhere = {id(score) for score in shown}
    tables = (_tables(benchmark, results, elsewhere) for benchmark in results.benchmarks)
    return [table for found in tables for table in found]


def split(metric: str, headline: Collection[str]) -> tuple[str, str]:
    """(part, metric) of a name like "algebra/acc,none" or "acc_algebra"; another metric is a part of its own."""
    if "/" in metric:
        part, _, name = metric.rpartition("/")
        return part, name
    whole = max((name for name in headline if metric.startswith(f"{name}_")), key=len, default="")
    return (metric.removeprefix(f"{whole}_"), whole) if whole else (metric, "")


def _tables(benchmark: str, results: Results, elsewhere: Collection[int]) -> list[Parts]:
    """Parts first; then the metrics that are none."""
    headline = results.headline_metrics(benchmark)
    compared = {id(each.tuned): each for each in results.comparisons}
    entries: dict[str, dict[tuple[str, str], Entry]] = {}
    for model, evaluation in results.of(benchmark).items():
        for score in evaluation.scores:
            if score.metric not in headline and id(score) not in elsewhere:
                part, metric = split(score.metric, headline)
                entries.setdefault(part, {})[model, metric] = (score, compared.get(id(score)))
    others = {part: found for part, found in entries.items() if any(metric == "" for _, metric in found)}
    groups = {part: found for part, found in entries.items() if part not in others}
    return [_table(benchmark, results, found) for found in (groups, others) if found]


def _table(benchmark: str, results: Results, entries: dict[str, dict[tuple[str, str], Entry]]) -> Parts:
    models = tuple(results.of(benchmark))
    metrics = tuple(dict.fromkeys(metric for found in entries.values() for _, metric in found))
    rows = []
    for part, found in entries.items():
        n = max(score.n for score, _ in found.values())
        rows.append((part, n, tuple(found.get((model, metric)) for model in models for metric in metrics)))
    return Parts(benchmark, models, metrics, tuple(rows))
