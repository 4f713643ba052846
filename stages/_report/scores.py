"""How the page words and draws a comparison."""

from dataclasses import dataclass

from stages._report import format as show
from stages._report.results import Comparison, Results, Score

SIGNIFICANT = 0.05


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


def headlines(results: Results) -> list[Headline]:
    """The main metric of every meaningful benchmark against the baseline."""
    return [_headline(each) for each in results.comparisons if each.tuned.primary and each.meaningful]


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
