"""Pairwise comparison: both orders of two answers make one outcome, a win only where the two verdicts agree."""

from statistics import fmean, median
from typing import Any

from stages.benchmarks.base import Answered, Item, Metric, mean_metric

PRIMARY = "win_rate"
OUTCOMES = {"model": 1.0, "tie": 0.5, "opponent": 0.0}


def items(answered: Answered) -> list[Item]:
    """One a question. Its score is the mean outcome of the turns that have one, None if none has.

    An outcome is 1 for a win, 0 for a loss, 0.5 for a tie, as in FastChat's show_result.py: two verdicts that differ
    are a tie. Compared k times, a turn counts with the median of the outcomes that could be read, and as a tie where
    that lies between two of them.
    """
    games = _games(answered)
    return [_item(answered, request, games) for request in answered.requests]


def metrics(items: list[Item]) -> dict[str, Metric]:
    """The win rate overall, of each turn and of each category, ties counting half.

    Standard errors are over questions: the two turns of one conversation are not independent.
    """
    groups: dict[str, list[float | None]] = {PRIMARY: [item["score"] for item in items]}
    for turn in range(1, 1 + max((len(item["question"]) for item in items), default=0)):
        groups[f"win_rate_turn_{turn}"] = [item.get(f"outcome_turn_{turn}") for item in items]
    for category in dict.fromkeys(item["category"] for item in items):
        groups[f"win_rate_{category}"] = [item["score"] for item in items if item["category"] == category]
    read = {name: [value for value in values if value is not None] for name, values in groups.items()}
    return {name: mean_metric(values) for name, values in read.items() if values or name == PRIMARY}


def counts(items: list[Item]) -> dict[str, int]:
    """Of turns: `ties` has those whose two verdicts differed in it, `inconsistent` counts these alone."""
    outcomes = [item.get(f"outcome_turn_{turn}") for item in items for turn in range(1, 1 + len(item["question"]))]
    return {
        "wins": outcomes.count(1.0),
        "losses": outcomes.count(0.0),
        "ties": outcomes.count(0.5),
        "inconsistent": sum(item["inconsistent"] for item in items),
        "unrated_turns": outcomes.count(None),
    }


def _games(answered: Answered) -> dict[tuple[str, int], list[tuple[Any, Any]]]:
    """(question, turn) -> for each repeat, who won with the model shown first, and with the model shown second."""
    winners = {(row["id"], row["turn"], row["repeat"], row["model_is"]): row["winner"] for row in answered.judgments}
    games: dict[tuple[str, int], list[tuple[Any, Any]]] = {}
    for name, turn, repeat, model_is in winners:
        if model_is == "A":
            pair = winners[name, turn, repeat, "A"], winners[name, turn, repeat, "B"]
            games.setdefault((name, turn), []).append(pair)
    return games


def _item(answered: Answered, request: Any, games: dict[tuple[str, int], list[tuple[Any, Any]]]) -> Item:
    turns = range(len(request.turns))
    by_turn = [[game for game in games.get((request.id, turn), []) if None not in game] for turn in turns]
    outcomes = [_outcome(games_of_turn) for games_of_turn in by_turn]
    read = [outcome for outcome in outcomes if outcome is not None]
    return {
        "id": request.id,
        "score": fmean(read) if read else None,
        "category": request.doc["category"],
        **{f"outcome_turn_{turn + 1}": outcome for turn, outcome in enumerate(outcomes)},
        "inconsistent": sum(any(first != second for first, second in found) for found in by_turn),
        "question": list(request.turns),
        "answer": [answered.answers[request.id, 0, turn].text for turn in turns],
        "reference": request.doc["reference"],
        "judgments": [row["text"] for row in answered.judgments if row["id"] == request.id],
    }


def _outcome(games: list[tuple[Any, Any]]) -> float | None:
    if not games:
        return None
    middle = median(OUTCOMES[first] if first == second else OUTCOMES["tie"] for first, second in games)
    return middle if middle in OUTCOMES.values() else OUTCOMES["tie"]
