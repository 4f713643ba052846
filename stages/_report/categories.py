"""Scores by category of question, as MT-Bench reports them: a table with the turns, and a radar plot a model."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from stages._report.results import Evaluation, Results, Score

SIZE = (380.0, 290.0)
CENTRE, RADIUS = (190.0, 147.0), 104.0
LABEL_GAP = 14.0
NUM_RINGS = 5
FEWEST_AXES = 3


@dataclass(frozen=True)
class Series:
    """One model's polygon: (x, y) of the categories that have a score."""

    kind: str
    model: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Axis:
    """A category's line from the centre, with its label."""

    name: str
    end: tuple[float, float]
    label: tuple[float, float]
    anchor: str
    """Where the label's text begins, as SVG's text-anchor says it."""


@dataclass(frozen=True)
class Radar:
    """A model beside the baseline, from 0 in the centre to `limit`."""

    axes: tuple[Axis, ...]
    rings: tuple[str, ...]
    """Points of each ring, as SVG's polygon takes them."""
    series: tuple[Series, ...]
    text: str
    """What it shows, for those who do not see it."""


@dataclass(frozen=True)
class Categories:
    """One benchmark's scores: for each category (and over all) one a model and column, where there is one."""

    benchmark: str
    metric: str
    models: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[str, int, tuple[Score | None, ...]], ...]
    """(category, number of questions, scores: every column of the first model, then of the second, ...)"""
    limit: float
    radars: tuple[Radar, ...]

    @property
    def scores(self) -> list[Score]:
        return [score for _, _, scores in self.rows for score in scores if score]


def categories(results: Results) -> list[Categories]:
    """Of each benchmark that scores its questions' categories."""
    found = [_categories(list(results.of(name).values()), results.baseline) for name in results.benchmarks]
    return [each for each in found if each is not None]


def names(evaluation: Evaluation) -> list[str]:
    """Its categories, in the order in which they are scored."""
    known = dict.fromkeys(str(item["category"]) for item in evaluation.items if item.get("category"))
    scored = {score.metric for score in evaluation.scores}
    return [name for name in known if f"{evaluation.primary}_{name}" in scored]


def _categories(evaluations: list[Evaluation], baseline: str) -> Categories | None:
    first = evaluations[0]
    known = list(dict.fromkeys(name for each in evaluations for name in names(each)))
    if not known:
        return None
    scored = {(each.model, score.metric): score for each in evaluations for score in each.scores}
    turns = [turn for turn in ("turn_1", "turn_2") if any(m == f"{first.primary}_{turn}" for _, m in scored)]
    by_turn = [t for t in turns if any(m == f"{first.primary}_{name}_{t}" for _, m in scored for name in known)]
    endings = [*(f"_{turn}" for turn in by_turn), ""]

    def row(name: str, prefix: str) -> tuple[str, int, tuple[Score | None, ...]]:
        scores = tuple(scored.get((each.model, prefix + ending)) for each in evaluations for ending in endings)
        return name, max((score.n for score in scores if score), default=0), scores

    rows = [row(name, f"{first.primary}_{name}") for name in known] + [row("all", first.primary)]
    limit = _limit([score for _, _, scores in rows for score in scores if score])
    values = {
        each.model: [scored.get((each.model, f"{first.primary}_{name}")) for name in known] for each in evaluations
    }
    return Categories(
        benchmark=first.benchmark,
        metric=first.primary,
        models=tuple(each.model for each in evaluations),
        columns=tuple([turn.replace("_", " ") for turn in by_turn] + ["both" if by_turn else first.primary]),
        rows=tuple(rows),
        limit=limit,
        radars=tuple(_radars(known, values, baseline, limit)),
    )


def _limit(scores: Sequence[Score]) -> float:
    return 1.0 if all(score.value <= 1 for score in scores) else 10.0


def _radars(known: list[str], values: dict[str, list[Score | None]], baseline: str, limit: float) -> list[Radar]:
    """One for each model beside the baseline; for the baseline alone, its own."""
    if len(known) < FEWEST_AXES:
        return []
    others = [model for model in values if model != baseline] or [baseline]
    return [_radar(known, {name: values[name] for name in (baseline, model) if name in values}, model, limit)
            for model in others]  # fmt: skip


def _radar(known: list[str], values: dict[str, list[Score | None]], tuned: str, limit: float) -> Radar:
    series = []
    for model, scores in values.items():
        points = [_place(i, len(known), score.value / limit) for i, score in enumerate(scores) if score]
        series.append(Series("tuned" if model == tuned else "base", model, tuple(points)))
    rings = [
        " ".join(f"{x},{y}" for x, y in (_place(i, len(known), ring / NUM_RINGS) for i in range(len(known))))
        for ring in range(1, NUM_RINGS + 1)
    ]
    text = "; ".join(f"{model}: {_listed(known, scores)}" for model, scores in values.items())
    return Radar(tuple(_axis(name, i, len(known)) for i, name in enumerate(known)), tuple(rings), tuple(series), text)


def _listed(known: list[str], scores: list[Score | None]) -> str:
    return ", ".join(f"{name} {score.value:.2f}" for name, score in zip(known, scores, strict=True) if score)


def _axis(name: str, index: int, count: int) -> Axis:
    x, y = _place(index, count, 1 + LABEL_GAP / RADIUS)
    sideways = x - CENTRE[0]
    anchor = "middle" if abs(sideways) < 1 else ("start" if sideways > 0 else "end")
    return Axis(name, _place(index, count, 1), (x, y + 4), anchor)


def _place(index: int, count: int, share: float) -> tuple[float, float]:
    """The point on an axis; the first one points upwards, the others follow clockwise."""
    angle = 2 * math.pi * index / count - math.pi / 2
    radius = RADIUS * max(0.0, share)
    return round(CENTRE[0] + radius * math.cos(angle), 2), round(CENTRE[1] + radius * math.sin(angle), 2)
