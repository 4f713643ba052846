"""How the page words, orders and draws scores and comparisons."""

from collections.abc import Sequence
from dataclasses import dataclass

from stages._report import format as show
from stages._report.duels import Duel
from stages._report.results import Comparison, Evaluation, Results, Score

SIGNIFICANT = 0.05
MANY_HEADLINES = 8
"""Comparisons from which they are counted instead of told one by one."""
OUTCOMES = ("wins", "ties", "losses")
"""Counts that are results, not troubles."""


@dataclass(frozen=True)
class Headline:
    """One sentence of result; `verdict` is "better", "worse" or "level"."""

    verdict: str
    text: str


@dataclass(frozen=True)
class Strip:
    """Two scores and their intervals on one axis: value, low, high as fractions of its length."""

    base: tuple[float, ...]
    tuned: tuple[float, ...]
    limit: float


@dataclass(frozen=True)
class Cell:
    """A score in the table of models and benchmarks, and what the paired test says of it against the baseline."""

    score: Score | None
    verdict: str


@dataclass(frozen=True)
class Matrix:
    """Every two models on one benchmark: a comparison of the row's model (`tuned`) with the column's, or None."""

    benchmark: str
    metric: str
    models: tuple[str, ...]
    rows: tuple[tuple[str, tuple[tuple[float, Comparison] | None, ...]], ...]
    """(row's model, (row minus column, the comparison) for each column)"""


def headlines(results: Results, duels: Sequence[Duel]) -> list[Headline]:
    """The main metric of every meaningful benchmark against the baseline, then who won against whom."""
    told = [each for each in results.comparisons if each.tuned.primary and each.meaningful]
    lines = [_headline(each) for each in told] if len(told) < MANY_HEADLINES else [_summary(told, results.baseline)]
    return lines + [_duel_line(duel) for duel in duels if duel.meaningful]


def alone(results: Results, duels: Sequence[Duel]) -> list[Score]:
    """The scores that stand for a benchmark and take part in no comparison."""
    shown = {id(score) for each in results.comparisons for score in (each.base, each.tuned)}
    shown |= {id(duel.score) for duel in duels}
    return [score for score, _ in results.headline if id(score) not in shown]


def leaderboard(results: Results) -> list[tuple[str, list[Cell]]]:
    """Each model's main score on every benchmark."""
    verdicts = {id(each.tuned): verdict(each) for each in results.comparisons if each.meaningful}
    scores = {(s.model, s.benchmark): s for each in results.evaluations for s in each.scores if s.primary}
    found = {model: [scores.get((model, name)) for name in results.benchmarks] for model in results.models}
    return [(model, [Cell(s, verdicts.get(id(s), "level")) for s in row]) for model, row in found.items()]


def matrices(results: Results) -> list[Matrix]:
    """Of each benchmark on which three or more models can be compared."""
    found = [_matrix(name, results) for name in results.benchmarks]
    return [each for each in found if len(each.models) > 2]


def count_kinds(results: Results) -> list[str]:
    """The names of all troubles that occurred, in their first order."""
    counted = (kind for each in results.evaluations for kind, number in each.counts.items() if number)
    return list(dict.fromkeys(kind for kind in counted if kind not in OUTCOMES))


def troubles(evaluation: Evaluation) -> str:
    """What went wrong in its answers: "12 truncated, 3 unparsable"; nothing where nothing did."""
    counts = [(name, number) for name, number in evaluation.counts.items() if number and name not in OUTCOMES]
    return ", ".join(show.unbroken(f"{show.grouped(number)} {name}") for name, number in counts)


def verdict(comparison: Comparison) -> str:
    """Whether the paired test, at the 5 % level, says "better" or "worse"; else "level"."""
    paired = comparison.paired
    if paired is None or paired.p_value >= SIGNIFICANT or comparison.difference == 0:
        return "level"
    return "better" if (comparison.difference > 0) == comparison.tuned.higher_is_better else "worse"


def strip(comparison: Comparison) -> Strip:
    """Both scores on an axis from 0 to 1, 10, 100, ... whichever holds them."""
    ends = _ends(comparison.base), _ends(comparison.tuned)
    limit = 1.0
    while max(max(each) for each in ends) > limit:
        limit *= 10
    base, tuned = (tuple(min(1.0, max(0.0, number / limit)) for number in each) for each in ends)
    return Strip(base, tuned, limit)


def _summary(told: Sequence[Comparison], baseline: str) -> Headline:
    kinds = [verdict(each) for each in told]
    parts = ", ".join(f"{kinds.count(kind)} {word}" for kind, word in
                      (("better", "better"), ("worse", "worse"), ("level", "not distinguishable")))  # fmt: skip
    by_chance = f"about {SIGNIFICANT * len(told):.1f} would differ by chance alone"
    return Headline("level", f"{len(told)} comparisons with {baseline}: {parts} (p below {SIGNIFICANT}; {by_chance}).")


def _duel_line(duel: Duel) -> Headline:
    level = duel.paired.p_value >= SIGNIFICANT or duel.paired.difference == 0
    kind = "level" if level else ("better" if duel.paired.difference > 0 else "worse")
    word = {"better": "wins against", "worse": "loses against", "level": "is not distinguishable from"}[kind]
    rate = show.with_error(show.number(duel.score.value), duel.score.stderr)
    return Headline(
        kind,
        f"{duel.model} {word} {duel.opponent} on {duel.benchmark}: a win rate of {rate} over "
        f"{show.items(duel.paired.n)} (p {_p(duel.paired.p_value)}).",
    )


def _matrix(benchmark: str, results: Results) -> Matrix:
    comparisons = [each for each in (*results.comparisons, *results.others) if each.tuned.benchmark == benchmark]
    found = {(each.tuned.model, each.base.model): each for each in comparisons if each.tuned.primary}
    models = [model for model in results.models if any(model in pair for pair in found)]

    def entry(row: str, column: str) -> tuple[float, Comparison] | None:
        if (row, column) in found:
            return found[row, column].difference, found[row, column]
        return (-found[column, row].difference, found[column, row]) if (column, row) in found else None

    metric = next((each.tuned.metric for each in found.values()), "")
    rows = tuple((row, tuple(entry(row, column) for column in models)) for row in models)
    return Matrix(benchmark, metric, tuple(models), rows)


def _headline(each: Comparison) -> Headline:
    kind, paired = verdict(each), each.paired
    where = f"{each.tuned.benchmark} ({each.tuned.metric})"
    values = f"{show.number(each.base.value)} → {show.number(each.tuned.value)}"
    if paired is None:
        return Headline(kind, f"{each.tuned.model} on {where}: {values}; {each.reason}.")
    word = {"better": "better than", "worse": "worse than", "level": "not distinguishable from"}[kind]
    change = show.with_error(show.signed(each.difference), paired.stderr)
    return Headline(
        kind,
        f"{each.tuned.model} is {word} {each.base.model} on {where}: {values}, "
        f"a difference of {change} over {show.items(paired.n)} (p {_p(paired.p_value)}).",
    )


def _p(value: float) -> str:
    text = show.p_value(value)
    return text if text.startswith("<") else f"= {text}"


def _ends(score: Score) -> tuple[float, float, float]:
    if score.interval is None:
        return score.value, score.value, score.value
    return score.value, score.interval.low, score.interval.high
