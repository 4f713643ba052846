"""What benchmarks share: the form of their scores, and arithmetic over items."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from pipeline.strict import StrictModel
from stages._serving.requests import TOO_LONG, Answer, Request

Item = dict[str, Any]
"""One problem: {"id", "score", "question", "answer", "reference", ...}; other metrics by their names."""


class Metric(StrictModel):
    """A mean over n items and its standard error (None where one item is too few); without items there is no value."""

    value: float | None
    stderr: float | None
    n: int


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

    def texts(self, request: Request, turn: int = 0) -> list[str]:
        """The answers of all samples, in order."""
        return [self.answers[request.id, sample, turn].text for sample in range(request.num_samples)]


def mean_metric(values: Sequence[float]) -> Metric:
    """The mean and its standard error s / sqrt(n), s being the sample standard deviation."""
    if not values:
        return Metric(value=None, stderr=None, n=0)
    stderr = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return Metric(value=fmean(values), stderr=stderr, n=len(values))


def answer_counts(answers: Iterable[Answer]) -> dict[str, int]:
    """How many answers were cut off, empty, or never asked for since their prompt was too long."""
    answers = list(answers)
    reasons = Counter(answer.finish_reason for answer in answers)
    empty = sum(not answer.text.strip() for answer in answers)
    return {"truncated": reasons["length"], "empty": empty, "prompt_too_long": reasons[TOO_LONG]}
