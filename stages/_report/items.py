"""The data of the answer browser: every item once, with each model's answer and verdict beside it."""

import json
from collections.abc import Collection, Mapping
from typing import Any

from stages._report.results import Evaluation, Item, Results
from stages._statistics import is_binary

SHARED = ("question", "reference")
MOST_ITEMS = 500
"""Items of one benchmark on the page, those on which models differ before others; items.jsonl has all."""
LONGEST_TEXT = 10_000
SHOWN = {"id", "score", "answer", *SHARED}


def browser_data(results: Results) -> dict[str, Any]:
    """{"models", "baseline", "benchmarks": [{"name", "metric", "binary", "higher_is_better", "items": [...]}]}."""
    return {
        "models": list(results.models),
        "baseline": results.baseline,
        "benchmarks": [_benchmark(name, results.of(name)) for name in results.benchmarks],
    }


def embedded_json(value: Any) -> str:
    """JSON that may stand inside a script element: no character of it can end the element or open another."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _benchmark(name: str, evaluations: Mapping[str, Evaluation]) -> dict[str, Any]:
    first = next(iter(evaluations.values()))
    scores = [item["score"] for each in evaluations.values() for item in each.items if item.get("score") is not None]
    names = list(dict.fromkeys(str(item["id"]) for each in evaluations.values() for item in each.items))
    return {
        "name": name,
        "num_items": len(names),
        "metric": first.primary,
        "higher_is_better": first.higher_is_better,
        "binary": is_binary(scores),
        "items": _side_by_side(evaluations, set(_chosen(names, evaluations))),
    }


def _chosen(names: list[str], evaluations: Mapping[str, Evaluation]) -> list[str]:
    """At most MOST_ITEMS: those on which scores differ, then others, each in their order."""
    if len(names) <= MOST_ITEMS:
        return names
    found: dict[str, set[Any]] = {}
    for each in evaluations.values():
        for item in each.items:
            found.setdefault(str(item["id"]), set()).add(item.get("score"))
    return sorted(names, key=lambda name: len(found[name]) < 2)[:MOST_ITEMS]


def _side_by_side(evaluations: Mapping[str, Evaluation], chosen: Collection[str]) -> list[dict[str, Any]]:
    """One entry a chosen item id, in the order of the first model that has it."""
    merged: dict[str, dict[str, Any]] = {}
    for model, evaluation in evaluations.items():
        hidden = SHOWN | {score.metric for score in evaluation.scores if score.partial}
        for item in evaluation.items:
            name = str(item["id"])
            if name in chosen:
                shared = {"id": name, **{key: _texts(item.get(key)) for key in SHARED}, "answers": {}}
                merged.setdefault(name, shared)["answers"][model] = _answer(item, hidden)
    return list(merged.values())


def _answer(item: Item, hidden: Collection[str]) -> dict[str, Any]:
    details = {key: _text(value) for key, value in item.items() if key not in hidden and value is not None}
    return {"score": item.get("score"), "texts": _texts(item.get("answer")), "details": details}


def _texts(value: Any) -> list[str]:
    """A text, or the texts of several turns."""
    if value is None:
        return []
    return [_text(each) for each in value] if isinstance(value, list) else [_text(value)]


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]} ... ({len(text):,} characters)"
