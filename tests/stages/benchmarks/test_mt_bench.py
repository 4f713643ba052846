"""FastChat's protocol: its settings, its prompts word for word, its ratings."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import UserError
from stages._serving.requests import Answer, Sampling
from stages.benchmarks import _judging, mt_bench
from stages.benchmarks.base import Answered

CONFIG = mt_bench.Config(name="mt_bench")
SCORER = mt_bench.Scorer(name="mt_bench")
REPLIES = [
    "Rating: [[7]]",
    "[[7.5]] and [[2]]",
    "I say [6]",
    "Rating: 8",
    "[[ 5 ]]",
    "[[10]]",
    "[3] but then [[4]]",
    "",
]


@pytest.mark.slow
def test_settings_and_patterns_are_fastchats():
    from fastchat.llm_judge import common

    assert common.temperature_config == {**mt_bench.TEMPERATURES, "arena-hard-200": 0.0}
    assert set(_judging.CATEGORIES_WITH_REFERENCE) == set(common.NEED_REF_CATS) - {"arena-hard-200"}
    assert _judging.RATING.pattern == common.one_score_pattern.pattern
    assert _judging.RATING_BACKUP.pattern == common.one_score_pattern_backup.pattern


@pytest.mark.slow
@pytest.mark.parametrize("turn", [0, 1])
@pytest.mark.parametrize("question_id", ["1", "4"])
def test_judge_conversations_are_fastchats(
    question_id: str, turn: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """FastChat's own `run_judge_single` assembles the conversation; only its call of OpenAI's API is intercepted."""
    from fastchat.llm_judge import common

    request = next(each for each in mt_bench.requests(CONFIG, None, tmp_path) if each.id == question_id)
    prompts, texts = _judging.load_prompts(None), ["first {answer}", "second answer"]
    ours = _judging.judge_request(request, texts, turn, prompts, request.doc["reference"], Sampling(max_tokens=9))
    seen: list[Any] = []

    def reply(model: str, conversation: Any, **_: Any) -> str:
        seen.extend(conversation.to_openai_api_messages())
        return "[[5]]"

    monkeypatch.setattr(common, "chat_completion_openai", reply)
    template = prompts[ours.doc["prompt"]].model_dump()
    reference = request.doc["reference"] and {"choices": [{"turns": request.doc["reference"]}]}
    rating, user_prompt, _ = common.run_judge_single(
        {"turns": list(request.turns)},
        {"choices": [{"turns": texts}]},
        common.Judge("gpt-4", template),
        reference,
        multi_turn=turn == 1,
    )
    assert rating == 5
    assert [{"role": m.role, "content": m.content} for m in ours.history] + [
        {"role": "user", "content": ours.turns[0]}
    ] == seen
    assert user_prompt == ours.turns[0]


@pytest.mark.parametrize(("reply", "rating"), list(zip(REPLIES, [7, 7.5, 6, None, None, 10, 4, None], strict=True)))
def test_ratings(reply: str, rating: float | None):
    assert _judging.parse_rating(reply) == rating


@pytest.mark.parametrize("reply", ["[[0]]", "[[11]]", "[[85]]"])
def test_a_rating_off_the_scale_is_none(reply: str):
    assert _judging.parse_rating(reply) is None


def test_unreadable_ratings_are_counted_and_medians_taken(tmp_path: Path):
    config = mt_bench.Config(name="mt_bench", limit=2)
    requests = mt_bench.requests(config, None, tmp_path)
    answers = {(each.id, 0, turn): _answer(each.id, turn) for each in requests for turn in (0, 1)}
    ratings: dict[tuple[str, int], list[float | None]]
    ratings = {("1", 0): [2.0, 9.0, 4.0], ("1", 1): [6.0], ("2", 0): [None], ("2", 1): [8.0]}
    judgments = [
        {"id": name, "turn": turn, "rating": rating, "text": ""}
        for (name, turn), values in ratings.items()
        for rating in values
    ]
    scores, items = mt_bench.score(SCORER, config, Answered(requests, answers, None, judgments), tmp_path)
    assert [item["score"] for item in items] == [5.0, 8.0]
    assert scores.metrics["rating"].value == 6.5
    assert scores.metrics["rating_turn_1"].n == 1
    assert scores.counts["unparsable"] == 1


def test_without_any_rating_there_is_no_score(tmp_path: Path):
    config = mt_bench.Config(name="mt_bench", limit=1)
    requests = mt_bench.requests(config, None, tmp_path)
    answers = {(each.id, 0, turn): _answer(each.id, turn) for each in requests for turn in (0, 1)}
    judgments = [{"id": "1", "turn": turn, "rating": None, "text": ""} for turn in (0, 1)]
    scores, items = mt_bench.score(SCORER, config, Answered(requests, answers, None, judgments), tmp_path)
    assert (scores.metrics["rating"].value, scores.metrics["rating"].n) == (None, 0)
    assert items[0]["score"] is None


def test_a_row_that_is_no_question_is_named(tmp_path: Path):
    file = tmp_path / "questions.jsonl"
    file.write_text(json.dumps({"question_id": 1, "category": "x", "turns": ["a"]}) + '\n{"question": "b"}\n')
    with pytest.raises(UserError, match=r"questions.jsonl:2: expected"):
        mt_bench.requests(mt_bench.Config(name="mt_bench", questions=file), None, tmp_path)


def _answer(name: str, turn: int) -> Answer:
    return Answer(
        id=name,
        sample=0,
        turn=turn,
        text="x",
        finish_reason="stop",
        num_prompt_tokens=1,
        num_tokens=1,
        prompt_sha256="",
    )
