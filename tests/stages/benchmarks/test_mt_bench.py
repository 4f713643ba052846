"""FastChat's protocol: its settings, its prompts word for word, its ratings and its win rates."""

import json
from pathlib import Path
from typing import Any, Literal

import pytest

from pipeline.errors import UserError
from stages._data import pinned
from stages._serving.requests import Answer, Request, Sampling
from stages.benchmarks import _judging, mt_bench
from stages.benchmarks import _mt_bench_data as data
from stages.benchmarks.base import Answered, Item, Scores
from tests.shared_data import shared_data

DEMO = mt_bench.Config(name="mt_bench", questions="demo")
SCORER = mt_bench.Scorer(name="mt_bench")
SAMPLING = Sampling(max_tokens=9)
REPLIES = [
    ("Rating: [[7]]", 7),
    ("[[7.5]] and [[2]]", 7.5),
    ("I say [6]", 6),
    ("Rating: 8", None),
    ("[[ 5 ]]", None),
    ("[[10]]", 10),
    ("[3] but then [[4]]", 4),
    ("", None),
]
VERDICTS = [
    ("So it is [[A]].", "A"),
    ("[[B]]", "B"),
    ("a tie: [[C]]", "tie"),
    ("[[B]], no, [[A]]", "A"),
    ("[A]", None),
    ("[[?]]", None),
    ("", None),
]


# --- questions, references, prompts -------------------------------------------------------------------------------


def test_a_mirror_has_the_files_that_were_pinned(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    _cache_from_mirror(monkeypatch, tmp_path)
    requests = mt_bench.requests(mt_bench.Config(name="mt_bench"), None, tmp_path)
    assert [request.id for request in requests] == [str(number) for number in range(81, 161)]
    assert {len(request.turns) for request in requests} == {2}
    needing = [each for each in requests if each.doc["category"] in _judging.CATEGORIES_WITH_REFERENCE]
    assert len(needing) == 30
    assert all(len(request.doc["reference"]) == 2 for request in needing)


def test_a_mirror_folder_stands_in_for_the_pinned_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    mirror = shared_data("mt_bench").parent
    from_mirror = mt_bench.on_mirror(mt_bench.Config(name="mt_bench"), mirror)
    assert mt_bench.problems(from_mirror) == []
    _cache_from_mirror(monkeypatch, tmp_path)
    fetched = mt_bench.requests(mt_bench.Config(name="mt_bench"), None, tmp_path)
    assert mt_bench.requests(from_mirror, None, tmp_path) == fetched


def test_a_mirror_replaces_nothing_that_the_recipe_names(tmp_path: Path):
    _mirror(tmp_path)
    own = mt_bench.Config(name="mt_bench", questions=tmp_path / "own.jsonl")
    assert mt_bench.on_mirror(DEMO, tmp_path) == DEMO
    assert mt_bench.on_mirror(own, tmp_path) == own
    references = mt_bench.Config(name="mt_bench", references=tmp_path / "own.jsonl")
    assert mt_bench.on_mirror(references, tmp_path).references == tmp_path / "own.jsonl"


def test_a_mirror_without_the_reference_answers_is_not_used(tmp_path: Path):
    _mirror(tmp_path)
    (tmp_path / "mt_bench" / "reference_answer" / "gpt-4.jsonl").unlink()
    config = mt_bench.Config(name="mt_bench")
    assert mt_bench.on_mirror(config, tmp_path) == config


def test_preflight_says_what_cannot_be_had(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    questions, references = mt_bench.problems(mt_bench.Config(name="mt_bench"))
    assert questions.startswith("mt_bench: questions: https://raw.githubusercontent.com/lm-sys/FastChat/")
    assert "copy it to" in questions
    assert references.startswith("mt_bench: references: ")
    [line] = mt_bench.problems(mt_bench.Config(name="mt_bench", questions=tmp_path / "dmeo"))
    assert line.endswith("dmeo does not exist, expected mt_bench, demo or a file")
    assert mt_bench.problems(DEMO) == []


def test_questions_are_a_name_or_a_file_and_are_identified_by_it(tmp_path: Path):
    file = tmp_path / "questions.jsonl"
    file.write_text("{}\n")
    record = json.dumps({"name": "mt_bench", "questions": "questions.jsonl"})
    config = mt_bench.Config.model_validate_json(record, context={"base_dir": tmp_path})
    assert config.questions == file
    assert mt_bench.Config.model_validate_json(config.model_dump_json()) == config
    assert set(config.canonical()["questions"]) == {"content"}
    assert DEMO.canonical()["questions"] == "demo"
    assert "questions" not in mt_bench.Config(name="mt_bench").canonical()
    with pytest.raises(ValueError, match="found 3, expected a name or a file") as caught:
        mt_bench.Config.model_validate_json('{"name": "mt_bench", "questions": 3}')
    assert str(caught.value).startswith("1 validation error")


@pytest.mark.parametrize("row", [{"question": "b"}, {"turns": ["a", "b", "c"]}, {"turns": "ab"}, {"turns": []}])
def test_a_row_that_is_no_question_is_named(row: dict[str, Any], tmp_path: Path):
    good = {"question_id": 1, "category": "x", "turns": ["a"]}
    file = tmp_path / "questions.jsonl"
    file.write_text(json.dumps(good) + "\n" + json.dumps({**good, **row} if "turns" in row else row) + "\n")
    with pytest.raises(UserError, match=r"questions.jsonl:2: expected"):
        mt_bench.requests(mt_bench.Config(name="mt_bench", questions=file), None, tmp_path)


def test_a_line_that_is_no_json_is_named(tmp_path: Path):
    file = tmp_path / "questions.jsonl"
    file.write_text("{}\n{\n")
    with pytest.raises(UserError, match=r"questions.jsonl:2: no JSON"):
        mt_bench.requests(mt_bench.Config(name="mt_bench", questions=file), None, tmp_path)


def test_references_of_a_file_come_before_the_questions_own(tmp_path: Path):
    file = tmp_path / "references.jsonl"
    file.write_text(json.dumps({"question_id": 3, "choices": [{"turns": ["r1", "r2"]}]}) + "\n")
    config = mt_bench.Config(name="mt_bench", questions="demo", references=file)
    found = {request.id: request.doc["reference"] for request in mt_bench.requests(config, None, tmp_path)}
    assert found["3"] == ["r1", "r2"]
    assert found["4"][0].startswith("8 dollars")
    file.write_text(json.dumps({"question_id": 3, "choices": [{"turns": [12000]}]}) + "\n")
    with pytest.raises(UserError, match=r"references.jsonl:1: expected"):
        mt_bench.requests(config, None, tmp_path)


def test_mathematics_without_a_reference_answer_is_not_judged():
    request = Request(id="9", turns=("a", "b"), sampling=SAMPLING, doc={"category": "math", "reference": ["one"]})
    prompts = _judging.load_prompts(data.DEMO_PROMPTS, "single")
    with pytest.raises(UserError, match=r"question 9: its category math .* found 1, expected a list of one a turn"):
        _judging.rating_request(request, ["x", "y"], 0, prompts, _asked("single"))


def test_prompts_that_are_missing_are_named(tmp_path: Path):
    file = tmp_path / "prompts.jsonl"
    lines = data.DEMO_PROMPTS.read_text().splitlines(keepends=True)
    file.write_text("".join(line for line in lines if "pair-math-v1" not in line))
    assert "single-v1" in _judging.load_prompts(file, "single")
    with pytest.raises(UserError, match="no judge prompt pair-math-v1, pair-math-v1-multi-turn; expected FastChat's"):
        _judging.load_prompts(file, "pairwise")


# --- the same as FastChat -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_settings_and_patterns_are_fastchats():
    from fastchat.llm_judge import common

    assert common.temperature_config == {**mt_bench.TEMPERATURES, "arena-hard-200": 0.0}
    assert set(_judging.CATEGORIES_WITH_REFERENCE) == set(common.NEED_REF_CATS) - {"arena-hard-200"}
    assert _judging.RATING.pattern == common.one_score_pattern.pattern
    assert _judging.RATING_BACKUP.pattern == common.one_score_pattern_backup.pattern


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["single", "pairwise"])
def test_all_judge_conversations_are_fastchats(mode: Literal["single", "pairwise"], monkeypatch: pytest.MonkeyPatch):
    """FastChat's own code makes the matches and plays them; only its call of OpenAI's API is intercepted.

    That covers which prompt each question's turn is judged with: 80 questions, two turns, in pairs both orders.
    """
    fastchats = [_fastchats_conversation(*game) for game in _fastchats_games(mode, monkeypatch)]
    ours = [_our_conversation(request) for request in _our_requests(mode)]
    assert len(fastchats) == len(ours) == {"single": 160, "pairwise": 320}[mode]
    assert sorted(ours) == sorted(fastchats)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["single-v1", "single-math-v1", "pair-v2", "pair-math-v1"])
def test_every_prompt_is_filled_in_as_fastchat_does(kind: str, monkeypatch: pytest.MonkeyPatch):
    """Each kind of prompt on all 80 questions and both turns, whatever their category."""
    from fastchat.llm_judge import common

    mode: Literal["single", "pairwise"] = "pairwise" if kind.startswith("pair") else "single"
    seen = _intercepted(monkeypatch)
    prompts = _judging.load_prompts(shared_data("mt_bench/judge_prompts.jsonl"), mode)
    ours = []
    for question in _questions():
        reference = [f"reference {{1}} to {question['question_id']}", "reference 2"] if "math" in kind else None
        doc = {"category": "math" if reference else "writing", "reference": reference}
        request = Request(id=str(question["question_id"]), turns=tuple(question["turns"]), sampling=SAMPLING, doc=doc)
        for turn in (0, 1):
            ours.append(_our_request(mode, request, turn, "A", prompts))
            judge = common.Judge("gpt-4", prompts[kind + ("-multi-turn" if turn else "")].model_dump())
            answers = [
                _choices(_texts(request.id, who)) for who in (("model",) if mode == "single" else ("model", "opponent"))
            ]
            play = common.run_judge_single if mode == "single" else common.run_judge_pair
            play(question, *answers, judge, reference and _choices(reference), multi_turn=turn == 1)
    assert {request.doc["prompt"] for request in ours} == {kind, f"{kind}-multi-turn"}
    assert [_our_conversation(request) for request in ours] == [_fastchats_conversation(*each) for each in seen]
    assert len(ours) == 160


@pytest.mark.slow
def test_replies_are_read_as_fastchat_reads_them(monkeypatch: pytest.MonkeyPatch):
    from fastchat.llm_judge import common

    prompts = _judging.load_prompts(data.DEMO_PROMPTS, "single") | _judging.load_prompts(data.DEMO_PROMPTS, "pairwise")
    question, answer = {"turns": ["q"]}, _choices(["a"])
    for text, rating in REPLIES:
        monkeypatch.setattr(common, "chat_completion_openai", lambda *_, text=text, **__: text)
        judge = common.Judge("gpt-4", prompts["single-v1"].model_dump())
        assert common.run_judge_single(question, answer, judge, None)[0] == (-1 if rating is None else rating)
    for text, verdict in VERDICTS:
        monkeypatch.setattr(common, "chat_completion_openai", lambda *_, text=text, **__: text)
        judge = common.Judge("gpt-4", prompts["pair-v2"].model_dump())
        assert common.run_judge_pair(question, answer, answer, judge, None)[0] == (verdict or "error")


@pytest.mark.slow
def test_win_rate_and_counts_are_those_of_fastchats_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any):
    """All pairs of readable verdicts, through FastChat's show_result and through ours."""
    from argparse import Namespace

    from fastchat.llm_judge import show_result

    said = ["model", "opponent", "tie"]
    games = {(str(number), 0): [pair] for number, pair in enumerate((a, b) for a in said for b in said)}
    games["9", 0] = [("model", "model")]
    names = {"model": "model_1", "opponent": "model_2", "tie": "tie"}
    file = tmp_path / "pairs.jsonl"
    rows = [
        {"model_1": "ours", "model_2": "theirs", "g1_winner": names[first], "g2_winner": names[second]}
        for [(first, second)] in games.values()
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    show_result.display_result_pairwise(Namespace(input_file=str(file), model_list=None, baseline_model="theirs"))
    win, loss, tie, *_, adjusted = capsys.readouterr().out.splitlines()[-1].split()[1:]
    scores, _ = _scored_pairs(games)
    assert (scores.counts["wins"], scores.counts["losses"], scores.counts["ties"]) == (int(win), int(loss), int(tie))
    assert scores.metrics["win_rate"].value == pytest.approx(float(adjusted))
    assert scores.counts["inconsistent"] == 6


# --- ratings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("reply", "rating"), REPLIES)
def test_ratings(reply: str, rating: float | None):
    assert _judging.parse_rating(reply) == rating


@pytest.mark.parametrize("reply", ["[[0]]", "[[11]]", "[[85]]"])
def test_a_rating_off_the_scale_is_none(reply: str):
    assert _judging.parse_rating(reply) is None


@pytest.mark.parametrize(("reply", "verdict"), VERDICTS)
def test_verdicts(reply: str, verdict: str | None):
    assert _judging.parse_verdict(reply) == verdict


def test_unreadable_ratings_are_counted_and_medians_taken():
    ratings: dict[tuple[str, int], list[float | None]]
    ratings = {("1", 0): [2.0, 9.0, 4.0], ("1", 1): [6.0, None, None], ("2", 0): [None] * 3, ("2", 1): [8.0] * 3}
    scores, items = _scored_ratings(ratings)
    assert [item["score"] for item in items] == [5.0, 8.0]
    assert [item["unrated_turns"] for item in items] == [0, 1]
    assert {name: (metric.value, metric.n) for name, metric in scores.metrics.items()} == {
        "rating": (6.5, 2),
        "rating_turn_1": (4.0, 1),
        "rating_turn_2": (7.0, 2),
        "rating_writing": (5.0, 1),
        "rating_writing_turn_1": (4.0, 1),
        "rating_writing_turn_2": (6.0, 1),
        "rating_roleplay": (8.0, 1),
        "rating_roleplay_turn_2": (8.0, 1),
        "rating_spread": (pytest.approx((13**0.5 + 0) / 2), 2),  # sample deviations of (2, 9, 4) and of (8, 8, 8)
    }
    assert (scores.counts["unparsable"], scores.counts["unrated_turns"]) == (5, 1)
    assert (scores.details["num_judgments"], scores.details["num_parsed"]) == (12, 7)


def test_one_judgment_has_no_spread():
    scores, _ = _scored_ratings({("1", 0): [2.0], ("1", 1): [6.0]})
    assert "rating_spread" not in scores.metrics


def test_without_any_rating_there_is_no_score():
    scores, items = _scored_ratings({("1", 0): [None], ("1", 1): [None]})
    assert (scores.metrics["rating"].value, scores.metrics["rating"].n) == (None, 0)
    assert list(scores.metrics) == ["rating"]
    assert items[0]["score"] is None


def test_only_the_demonstration_is_no_measurement():
    ratings: dict[tuple[str, int], list[float | None]] = {("1", 0): [2.0], ("1", 1): [6.0]}
    demo, _ = _scored_ratings(ratings)
    assert (demo.meaningful, demo.note) == (False, "1 demonstration questions, not MT-Bench's 80")
    some, _ = _scored_ratings(ratings, mt_bench.Config(name="mt_bench", limit=1))
    assert (some.meaningful, some.note) == (True, "the first 1 questions")


# --- pairs --------------------------------------------------------------------------------------------------------


def test_only_agreeing_verdicts_win():
    scores, items = _scored_pairs(
        {
            ("1", 0): [("model", "model")],
            ("1", 1): [("model", "opponent")],
            ("2", 0): [("opponent", "opponent")],
            ("2", 1): [("tie", "tie")],
        }
    )
    assert [item["score"] for item in items] == [0.75, 0.25]
    assert scores.primary == "win_rate"
    assert (scores.metrics["win_rate"].value, scores.metrics["win_rate"].n) == (0.5, 2)
    assert scores.metrics["win_rate_turn_2"].value == 0.5
    assert scores.metrics["win_rate_writing"].value == 0.75
    wanted = {"wins": 1, "losses": 1, "ties": 2, "inconsistent": 1, "unparsable": 0, "unrated_turns": 0}
    assert {name: scores.counts[name] for name in wanted} == wanted


def test_a_pair_with_an_unreadable_verdict_has_no_outcome_and_is_counted():
    scores, items = _scored_pairs({("1", 0): [("model", None)], ("1", 1): [("model", "model")]})
    assert (items[0]["outcome_turn_1"], items[0]["score"]) == (None, 1.0)
    assert (scores.counts["unparsable"], scores.counts["unrated_turns"], scores.counts["wins"]) == (1, 1, 1)
    nothing, _ = _scored_pairs({("1", 0): [(None, None)], ("1", 1): [(None, "tie")]})
    assert (nothing.metrics["win_rate"].value, nothing.metrics["win_rate"].n) == (None, 0)


@pytest.mark.parametrize(
    ("games", "outcome"),
    [
        ([("model", "model"), ("model", "model"), ("opponent", "opponent")], 1.0),
        ([("model", "model"), ("tie", "tie"), ("opponent", "opponent")], 0.5),
        ([("model", "model"), ("model", "tie")], 0.5),  # between a win and a tie: a tie
        ([("opponent", "opponent"), (None, "opponent")], 0.0),
    ],
)
def test_the_median_of_repeated_comparisons_counts(games: list[tuple[Any, Any]], outcome: float):
    _, items = _scored_pairs({("1", 0): games})
    assert items[0]["outcome_turn_1"] == outcome


# --- helpers ------------------------------------------------------------------------------------------------------


def _mirror(folder: Path) -> None:
    for name in ("question.jsonl", "judge_prompts.jsonl", "reference_answer/gpt-4.jsonl"):
        file = folder / "mt_bench" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("{}\n")


def _cache_from_mirror(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """As if the pinned files had been fetched, from files of a mirror."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    pinned.cache_dir().mkdir(parents=True)
    for file, name in ((data.QUESTIONS, "question.jsonl"), (data.REFERENCES, "reference_answer/gpt-4.jsonl")):
        file.path.write_bytes(shared_data(f"mt_bench/{name}").read_bytes())


def _questions() -> list[dict[str, Any]]:
    return [json.loads(line) for line in shared_data("mt_bench/question.jsonl").read_text().splitlines()]


def _texts(name: str, who: str) -> list[str]:
    """Two answers that a template must not take for its own fields."""
    return [f"first answer of {who} to {name}, {{answer}}", f"second {{}} answer of {who} to {name}\n\n[[A]]"]


def _choices(turns: list[str]) -> dict[str, Any]:
    return {"choices": [{"turns": turns}]}


def _asked(mode: Literal["single", "pairwise"]) -> _judging.Asked:
    return _judging.Asked(mode=mode, sampling=SAMPLING)


def _our_request(
    mode: Literal["single", "pairwise"], request: Request, turn: int, model_is: Any, prompts: Any
) -> Request:
    texts, opponents = _texts(request.id, "model"), _texts(request.id, "opponent")
    if mode == "single":
        return _judging.rating_request(request, texts, turn, prompts, _asked(mode))
    return _judging.pair_request(request, texts, opponents, turn, model_is, prompts, _asked(mode))


def _our_requests(mode: Literal["single", "pairwise"]) -> list[Request]:
    config = mt_bench.on_mirror(mt_bench.Config(name="mt_bench"), shared_data("mt_bench").parent)
    prompts = _judging.load_prompts(shared_data("mt_bench/judge_prompts.jsonl"), mode)
    return [
        _our_request(mode, request, turn, model_is, prompts)
        for request in mt_bench.requests(config, None, Path())
        for turn in (0, 1)
        for model_is in (("A",) if mode == "single" else ("A", "B"))
    ]


def _our_conversation(request: Request) -> tuple[str, ...]:
    return (*(f"{message.role}: {message.content}" for message in request.history), f"user: {request.turns[0]}")


def _intercepted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """What FastChat's code would have sent to OpenAI: (model, messages)."""
    from fastchat.llm_judge import common

    seen: list[tuple[str, Any]] = []

    def reply(model: str, conversation: Any, temperature: float, max_tokens: int) -> str:
        assert (temperature, max_tokens) == (0, 2048)
        seen.append((model, conversation.to_openai_api_messages()))
        return "[[5]] [[A]]"

    monkeypatch.setattr(common, "chat_completion_openai", reply)
    return seen


def _fastchats_conversation(model: str, messages: list[dict[str, str]]) -> tuple[str, ...]:
    assert model == "gpt-4"
    return tuple(f"{message['role']}: {message['content']}" for message in messages)


def _fastchats_games(mode: str, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """The calls of gen_judgment.py's main program, whose body is no function to be called."""
    from fastchat.llm_judge import common, gen_judgment

    seen = _intercepted(monkeypatch)
    questions = common.load_questions(str(shared_data("mt_bench/question.jsonl")), None, None)
    references = common.load_model_answers(str(shared_data("mt_bench/reference_answer")))
    prompts = common.load_judge_prompts(str(shared_data("mt_bench/judge_prompts.jsonl")))
    answers = {
        who: {each["question_id"]: _choices(_texts(str(each["question_id"]), who)) for each in questions}
        for who in ("model", "opponent")
    }
    single = mode == "single"
    judges = (gen_judgment.make_judge_single if single else gen_judgment.make_judge_pairwise)("gpt-4", prompts)
    match = gen_judgment.make_match_single if single else gen_judgment.make_match
    play = common.play_a_match_single if single else common.play_a_match_pair
    math = [each for each in questions if each["category"] in common.NEED_REF_CATS]
    other = [each for each in questions if each["category"] not in common.NEED_REF_CATS]
    baseline = None if single else "opponent"
    for turn, multi_turn in (("", False), ("-mt", True)):
        matches = match(other, ["model"], answers, judges[f"default{turn}"], baseline, multi_turn=multi_turn)
        matches += match(math, ["model"], answers, judges[f"math{turn}"], baseline, references, multi_turn=multi_turn)
        for each in matches:
            play(each, output_file="")
    return seen


def _scored_ratings(
    ratings: dict[tuple[str, int], list[float | None]], config: mt_bench.Config = DEMO
) -> tuple[Scores, list[Item]]:
    return _scored(
        config,
        [
            {"id": name, "turn": turn, "repeat": repeat, "rating": rating, "unparsable": rating is None}
            for (name, turn), values in ratings.items()
            for repeat, rating in enumerate(values)
        ],
    )


def _scored_pairs(games: dict[tuple[str, int], list[tuple[Any, Any]]]) -> tuple[Scores, list[Item]]:
    return _scored(
        DEMO,
        [
            {"id": name, "turn": turn, "repeat": repeat, "model_is": model_is, "winner": who, "unparsable": who is None}
            for (name, turn), values in games.items()
            for repeat, pair in enumerate(values)
            for model_is, who in zip("AB", pair, strict=True)
        ],
    )


def _scored(config: mt_bench.Config, rows: list[dict[str, Any]]) -> tuple[Scores, list[Item]]:
    """Of questions with as many turns as there are judgments of."""
    turns = {
        name: 1 + max(row["turn"] for row in rows if row["id"] == name) for name in dict.fromkeys(r["id"] for r in rows)
    }
    categories = {"1": "writing", "2": "roleplay"}
    requests = [
        Request(
            id=name,
            turns=("q",) * number,
            sampling=SAMPLING,
            doc={"category": categories.get(name, "other"), "reference": None},
        )
        for name, number in turns.items()
    ]
    answers = {(each.id, 0, turn): _answer(each.id, turn) for each in requests for turn in range(len(each.turns))}
    judgments = [{**row, "attempt": 0, "text": ""} for row in rows]
    return mt_bench.score(SCORER, config, Answered(requests, answers, None, judgments), Path())


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
