"""MT-Bench (Zheng et al. 2023, "Judging LLM-as-a-Judge with MT-Bench"): two-turn questions, rated by a judge.

The protocol is FastChat's: a temperature for each category, single-answer grading of each turn, ratings in [[double
brackets]]. The questions shipped here only show the path; point `questions` at FastChat's question.jsonl for the
benchmark itself.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean, median
from typing import Annotated, Any, Literal

from pydantic import Field

from pipeline.errors import UserError
from pipeline.strict import LocalPath, StrictModel
from stages._serving.requests import Request, Sampling
from stages.benchmarks.base import Answered, Item, Metric, Scores, answer_counts, mean_metric

DEMO_QUESTIONS = Path(__file__).parent / "mt_bench_demo" / "questions.jsonl"

# FastChat's own table, restated because importing fastchat takes 15 s (a test compares the two).
TEMPERATURES = {
    "writing": 0.7,
    "roleplay": 0.7,
    "extraction": 0.0,
    "math": 0.0,
    "coding": 0.0,
    "reasoning": 0.0,
    "stem": 0.1,
    "humanities": 0.1,
}
OTHER_TEMPERATURE = 0.7  # FastChat's for a category it does not know


class Config(StrictModel):
    """What is asked."""

    name: Literal["mt_bench"]
    questions: LocalPath | None = None
    """JSON lines {"question_id", "category", "turns", "reference" (optional)}; by default eight shipped here."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Only the first so many questions."""
    max_tokens: Annotated[int, Field(ge=1)] = 1024
    """Of each turn; 1024 is FastChat's."""
    seed: int = 0


class Scorer(StrictModel):
    """Options of scoring: none beyond the protocol's."""

    name: Literal["mt_bench"]


def requests(config: Config, data_dir: Path | None, cache_dir: Path) -> list[Request]:
    """One two-turn conversation a question. Raises UserError for a row that is no question."""
    path = config.questions or DEMO_QUESTIONS
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    _refuse_malformed(path, rows)
    return [_request(config, row) for row in rows[: config.limit]]


def score(scorer: Scorer, config: Config, answered: Answered, cache_dir: Path) -> tuple[Scores, list[Item]]:
    """The mean rating over questions and turns, for each turn, and for each category.

    A judge asked several times counts with its median. Raises UserError without judgments.
    """
    if not answered.judgments:
        raise UserError("mt_bench: no judgments to score, expected the result of a judge step")
    ratings = _ratings(answered.judgments)
    items = [_item(request, answered, ratings) for request in answered.requests]
    missing = sum(rating is None for rating in ratings.values())
    scores = Scores(
        benchmark="mt_bench",
        primary="rating",
        metrics=_metrics(items),
        counts={**answer_counts(answered.answers.values()), "unparsable": missing},
        meaningful=not answered.judged_by_itself and config.questions is not None,
        note=_note(config, answered),
        details={"num_ratings": len(ratings), "num_parsed": len(ratings) - missing},
    )
    return scores, items


def _refuse_malformed(path: Path, rows: list[dict[str, Any]]) -> None:
    problems = [
        f"{path}:{number}: expected an object with question_id, category and turns (a list of texts)"
        for number, row in enumerate(rows, 1)
        if not {"question_id", "category", "turns"} <= row.keys() or not row["turns"]
    ]
    if problems:
        raise UserError(*problems)


def _request(config: Config, row: dict[str, Any]) -> Request:
    return Request(
        id=str(row["question_id"]),
        turns=tuple(row["turns"]),
        sampling=Sampling(
            max_tokens=config.max_tokens,
            temperature=TEMPERATURES.get(row["category"], OTHER_TEMPERATURE),
            seed=config.seed,
        ),
        doc={"category": row["category"], "reference": row.get("reference")},
    )


def _ratings(judgments: Iterable[dict[str, Any]]) -> dict[tuple[str, int], float | None]:
    """(question, turn) -> the median of the ratings that could be read, or None."""
    found: dict[tuple[str, int], list[float]] = {}
    for row in judgments:
        values = found.setdefault((row["id"], row["turn"]), [])
        if row["rating"] is not None:
            values.append(row["rating"])
    return {key: median(values) if values else None for key, values in found.items()}


def _item(request: Request, answered: Answered, ratings: dict[tuple[str, int], float | None]) -> Item:
    by_turn = [ratings.get((request.id, turn)) for turn in range(len(request.turns))]
    read = [rating for rating in by_turn if rating is not None]
    return {
        "id": request.id,
        "score": fmean(read) if read else None,
        "category": request.doc["category"],
        **{f"rating_turn_{turn + 1}": rating for turn, rating in enumerate(by_turn)},
        "question": list(request.turns),
        "answer": [answered.answers[request.id, 0, turn].text for turn in range(len(request.turns))],
        "reference": request.doc["reference"],
        "judgments": [row["text"] for row in answered.judgments if row["id"] == request.id],
    }


def _metrics(items: list[Item]) -> dict[str, Metric]:
    """Standard errors are over questions: the two turns of one conversation are not independent."""
    groups = {"rating": ("score", items)}
    turns = max((sum(key.startswith("rating_turn_") for key in item) for item in items), default=0)
    groups |= {f"rating_turn_{turn}": (f"rating_turn_{turn}", items) for turn in range(1, turns + 1)}
    for category in dict.fromkeys(item["category"] for item in items):
        groups[f"rating_{category}"] = ("score", [item for item in items if item["category"] == category])
    read = {name: [item[key] for item in chosen if item.get(key) is not None] for name, (key, chosen) in groups.items()}
    return {name: mean_metric(values) for name, values in read.items() if values or name == "rating"}


def _note(config: Config, answered: Answered) -> str:
    notes = []
    if answered.judged_by_itself:
        notes.append("the model judged itself: its ratings show that the path works, not how good the answers are")
    if config.questions is None:
        notes.append(f"{len(answered.requests)} demonstration questions, not MT-Bench's 80")
    return "; ".join(notes)
