"""Single-answer grading: from the ratings of each turn to those of questions, categories and the whole."""

from collections.abc import Callable
from statistics import fmean, median, stdev
from typing import Any

from stages.benchmarks.base import Answered, Item, Metric, mean_metric

PRIMARY = "rating"


def items(answered: Answered) -> list[Item]:
    """One a question. Its score is the mean over the turns that were rated at all, None if none was.

    A turn that was rated k times counts with the median of the ratings that could be read. "spread" is the sample
    standard deviation of a turn's ratings, averaged over the turns with two or more.
    """
    read = _readable(answered)
    return [_item(answered, request, read) for request in answered.requests]


def metrics(items: list[Item]) -> dict[str, Metric]:
    """The rating overall, of each turn, of each category, of each category's turns, and the judge's spread.

    Standard errors are over questions: the two turns of one conversation are not independent.
    """
    turns = range(1, 1 + max((len(item["question"]) for item in items), default=0))
    found = {PRIMARY: _mean(items, lambda item: item["score"])}
    found |= {f"rating_turn_{turn}": _mean(items, _turn(turn)) for turn in turns}
    for category in dict.fromkeys(item["category"] for item in items):
        chosen = [item for item in items if item["category"] == category]
        found[f"rating_{category}"] = _mean(chosen, lambda item: item["score"])
        found |= {f"rating_{category}_turn_{turn}": _mean(chosen, _turn(turn)) for turn in turns}
    found["rating_spread"] = _mean(items, lambda item: item["spread"])
    return {name: metric for name, metric in found.items() if metric.n or name == PRIMARY}


def counts(items: list[Item]) -> dict[str, int]:
    """Turns without any rating that could be read."""
    return {"unrated_turns": sum(item["unrated_turns"] for item in items)}


def _readable(answered: Answered) -> dict[tuple[str, int], list[float]]:
    found: dict[tuple[str, int], list[float]] = {}
    for row in answered.judgments:
        values = found.setdefault((row["id"], row["turn"]), [])
        if row["rating"] is not None:
            values.append(row["rating"])
    return found


def _item(answered: Answered, request: Any, read: dict[tuple[str, int], list[float]]) -> Item:
    turns = range(len(request.turns))
    by_turn = [read.get((request.id, turn), []) for turn in turns]
    rated = [median(values) for values in by_turn if values]
    spreads = [stdev(values) for values in by_turn if len(values) > 1]
    return {
        "id": request.id,
        "score": fmean(rated) if rated else None,
        "category": request.doc["category"],
        **{f"rating_turn_{turn + 1}": median(values) if values else None for turn, values in enumerate(by_turn)},
        "spread": fmean(spreads) if spreads else None,
        "unrated_turns": sum(not values for values in by_turn),
        "question": list(request.turns),
        "answer": [answered.answers[request.id, 0, turn].text for turn in turns],
        "reference": request.doc["reference"],
        "judgments": [row["text"] for row in answered.judgments if row["id"] == request.id],
    }


def _mean(items: list[Item], value: Callable[[Item], float | None]) -> Metric:
    return mean_metric([found for found in map(value, items) if found is not None])


def _turn(number: int) -> Callable[[Item], float | None]:
    return lambda item: item.get(f"rating_turn_{number}")
