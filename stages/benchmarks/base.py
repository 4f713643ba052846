"""What benchmarks share: the form of their scores, and arithmetic over items."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from pipeline.strict import StrictModel
from stages._serving.requests import PROMPT_CUT, REFUSED, TOO_LONG, Answer, Request
from stages._statistics import Interval, bootstrap_interval, is_binary, mean_interval, normal_interval, standard_error

Item = dict[str, Any]
"""One problem: {"id", "score", "question", "answer", "reference", ...}; other metrics by their names."""


class Metric(StrictModel):
    """A mean over n problems, its standard error, and a 95 % interval; None where there are too few for one.

    Without problems there is no value.
    """

    value: float | None
    stderr: float | None
    n: int
    low: float | None = None
    high: float | None = None
    interval: str = ""
    """The interval's method: Wilson, Student t, bootstrap by problem, normal."""


class Scores(StrictModel):
    """scores.json."""

    benchmark: str
    primary: str
    higher_is_better: bool = True
    metrics: dict[str, Metric]
    counts: dict[str, int]
    """What went wrong, beside the score and never dropped from it: truncated, empty, ..."""
    meaningful: bool = True
    note: str = ""
    details: dict[str, Any] = {}
    """Versions, hashes and settings of what did the scoring."""


@dataclass(frozen=True)
class Answered:
    """Everything a scorer gets to see: what was asked, what was answered, what a judge said."""

    requests: Sequence[Request]
    answers: dict[tuple[str, int, int], Answer]
    """By (request id, sample, turn)."""
    data_dir: Path | None
    """The data artifact of the benchmark, if it has one."""
    judgments: Sequence[dict[str, Any]] = ()
    judged_by_itself: bool = False
    files_dir: Path | None = None
    """Where a scorer may keep files of its own, as part of the result."""

    def texts(self, request: Request, turn: int = 0) -> list[str]:
        """The answers of all samples, in order."""
        return [self.answers[request.id, sample, turn].text for sample in range(request.num_samples)]


def mean_metric(values: Sequence[float] | Sequence[Sequence[float]]) -> Metric:
    """The mean over problems, each of which counts alike, with its standard error over problems.

    `values`: one score a problem (interval: Wilson's for 0/1, Student's t else), or for each problem the scores of its
    samples (bootstrap of whole problems: samples of one problem are not independent).
    """
    if not values:
        return Metric(value=None, stderr=None, n=0)
    means = [fmean(each) if isinstance(each, Sequence) else each for each in values]
    sampled = isinstance(values[0], Sequence) and not is_binary(means)
    return _metric(
        fmean(means), standard_error(means), len(means), bootstrap_interval(means) if sampled else mean_interval(means)
    )


def metric_of(value: float, stderr: float | None, n: int, values: Sequence[float] = ()) -> Metric:
    """A number that somebody else worked out over n problems, with a normal interval.

    Where `values`, one a problem, have the number as their mean, the interval is the one `mean_metric` gives.
    """
    is_mean = len(values) == n > 0 and math.isclose(fmean(values), value, rel_tol=1e-9, abs_tol=1e-9)
    return _metric(value, stderr, n, mean_interval(values) if is_mean else normal_interval(value, stderr))


def _metric(value: float, stderr: float | None, n: int, interval: Interval | None) -> Metric:
    if interval is None:
        return Metric(value=value, stderr=stderr, n=n)
    low, high, method = interval.low, interval.high, interval.method
    return Metric(value=value, stderr=stderr, n=n, low=low, high=high, interval=method)


def answer_counts(answers: Iterable[Answer]) -> dict[str, int]:
    """How many answers were cut off, empty, to a prompt that was too long or cut, or refused.

    `empty` are those that a model ended without a word, not those that it never got to write.
    """
    answers = list(answers)
    reasons = Counter(answer.finish_reason for answer in answers)
    unwritten = (TOO_LONG, *REFUSED)
    written = (each for each in answers if each.loglikelihood is None and each.finish_reason not in unwritten)
    return {
        "truncated": reasons["length"],
        "empty": sum(not answer.text.strip() for answer in written),
        "prompt_too_long": reasons[TOO_LONG],
        "prompt_cut": reasons[PROMPT_CUT],
        "refused": sum(reasons[reason] for reason in REFUSED),
    }
