"""lm-eval's table of results as metrics: of the task or group by lm-eval's names, of its members as "member/metric"."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from pipeline.errors import UserError
from stages.benchmarks.base import Item, Metric, metric_of

MEAN_OF_TASKS = "mean_of_tasks"
Row = dict[str, tuple[float, float | None]]
"""By "metric,filter": value and standard error."""


class Table:
    """The results of `evaluate` for what was asked for under `name`."""

    def __init__(self, name: str, results: dict[str, Any]) -> None:
        self._name = name
        self._members: dict[str, list[str]] = results["group_subtasks"]
        self._num_documents = {task: number["effective"] for task, number in results["n-samples"].items()}
        self._directions: dict[str, dict[str, bool]] = results["higher_is_better"]
        self._rows: dict[str, Row] = {each: _row(row) for each, row in results["results"].items()}

    def metrics(self, wanted: str | None, items: Mapping[str, Sequence[Item]]) -> tuple[dict[str, Metric], str]:
        """All metrics and the name of the primary one.

        `wanted`: what the recipe calls primary. A group without it has the mean over its tasks.
        """
        made = {name: self._row_metrics(name, items) for name in self._rows}
        own = made.pop(self._name, {})
        members = {f"{name}/{metric}": value for name, row in made.items() for metric, value in row.items()}
        primary = wanted or next(iter(own), None)
        if primary in own:
            return {**own, **members}, primary
        parts = [made[task][metric] for task, metric in self._firsts(wanted).items()]
        return {MEAN_OF_TASKS: _mean(parts), **own, **members}, MEAN_OF_TASKS

    def of_items(self, task: str, wanted: str | None) -> str:
        """The metric of a task that is its items' score."""
        return wanted if wanted in self._rows[task] else next(iter(self._rows[task]))

    def higher_is_better(self, primary: str) -> bool:
        """Also for the mean of tasks, whose tasks agree in this."""
        directions = self._directions.get(self._name) or next(iter(self._directions.values()), {})
        metric = next(iter(directions), "") if primary == MEAN_OF_TASKS else primary.partition(",")[0]
        return directions.get(metric) is not False

    def _firsts(self, wanted: str | None) -> dict[str, str]:
        """Each task with the metric that its mean is of. Raises UserError when no task has the wanted one."""
        tasks = {name: row for name, row in self._rows.items() if row and name not in self._members}
        chosen = {name: wanted or next(iter(row)) for name, row in tasks.items() if wanted is None or wanted in row}
        if not chosen:
            known = ", ".join(dict.fromkeys(metric for row in self._rows.values() for metric in row))
            raise UserError(f"scorer.primary: got {wanted!r}, expected one of {known}")
        return chosen

    def _row_metrics(self, name: str, items: Mapping[str, Sequence[Item]]) -> dict[str, Metric]:
        tasks = self._tasks(name)
        n = sum(self._num_documents[task] for task in tasks)
        rows = [item for task in tasks for item in items.get(task, ())]
        return {
            metric: metric_of(value, stderr, n, [row[metric] for row in rows if row.get(metric) is not None])
            for metric, (value, stderr) in self._rows[name].items()
        }

    def _tasks(self, name: str) -> list[str]:
        """The tasks of a group, or the task itself."""
        members = self._members.get(name)
        return [task for member in members for task in self._tasks(member)] if members else [name]


def _row(row: dict[str, Any]) -> Row:
    names = [key for key in row if "," in key and "_stderr," not in key]
    return {name: (float(row[name]), _number(row.get(name.replace(",", "_stderr,", 1)))) for name in names}


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _mean(metrics: Sequence[Metric]) -> Metric:
    """Each task weighs the same. They are independent: the error is the root of the sum of squares, by their number."""
    errors = [metric.stderr for metric in metrics if metric.stderr is not None]
    stderr = sum(error**2 for error in errors) ** 0.5 / len(metrics) if len(errors) == len(metrics) else None
    return metric_of(fmean(metric.value or 0.0 for metric in metrics), stderr, sum(metric.n for metric in metrics))
