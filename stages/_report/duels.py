"""Models against an opponent, answer by answer, as a judge saw them in both orders."""

from collections.abc import Mapping
from dataclasses import dataclass

from stages._report.measured import opponent_of
from stages._report.read import Step
from stages._report.results import Evaluation, Results, Score
from stages._statistics import PairedComparison, compare_paired


@dataclass(frozen=True)
class Duel:
    """One model's win rate (ties count half) and what its turns came to; `paired` tests it against one half."""

    model: str
    benchmark: str
    opponent: str
    score: Score
    wins: int
    ties: int
    losses: int
    inconsistent: int
    """Turns on which the two orders gave different verdicts; they are among the ties."""
    meaningful: bool
    paired: PairedComparison


def duels(steps: Mapping[str, Step], results: Results) -> list[Duel]:
    """Every evaluation that counted wins and losses."""
    return [duel for each in results.evaluations if (duel := _duel(each, steps, results))]


def _duel(each: Evaluation, steps: Mapping[str, Step], results: Results) -> Duel | None:
    score = next((score for score in each.scores if score.primary), None)
    if "wins" not in each.counts or score is None or not score.values:
        return None
    outcomes = list(score.values.values())
    return Duel(
        model=each.model,
        benchmark=each.benchmark,
        opponent=opponent_of(steps[each.step], steps, results),
        score=score,
        wins=each.counts["wins"],
        ties=each.counts.get("ties", 0),
        losses=each.counts.get("losses", 0),
        inconsistent=each.counts.get("inconsistent", 0),
        meaningful=each.meaningful,
        paired=compare_paired([0.5] * len(outcomes), outcomes),
    )
