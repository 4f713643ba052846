"""Judgments: asked for again when unreadable, counted when they stay so, never asked for twice."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.artifact import Artifact
from pipeline.errors import UserError
from pipeline.stage import Resources, Workspace
from stages import generate, judge, score
from stages._data.prompts import Chat
from stages._serving.endpoint import Endpoint
from stages._serving.names import served_model_name
from stages.benchmarks import mt_bench
from stages.benchmarks._mt_bench_data import DEMO_PROMPTS
from tests.stages.conftest import artifact
from tests.stages.scripted_server import Script, completion, serving
from tests.stages.templates import write_template
from tests.stages.test_generate import CONFIG

MODEL = served_model_name("0" * 64)
SINGLE = judge.Config(prompts="demo")
PAIRWISE = judge.Config(prompts="demo", mode="pairwise")


@pytest.fixture
def answers(tiny_model: Artifact, tmp_path: Path) -> Artifact:
    return _answers(tiny_model, "three pears", tmp_path / "answers")


@pytest.fixture
def opponent(tiny_model: Artifact, tmp_path: Path) -> Artifact:
    """Of a model with other weights."""
    folder = _answers(tiny_model, "two apples", tmp_path / "opponent").path
    _rewrite(folder / "generation.json", model_fingerprint="1" * 64)
    return artifact(folder, "generate")


def _answers(model: Artifact, text: str, folder: Path) -> Artifact:
    """Of two questions with two turns each."""
    template = folder.with_name(f"{folder.name}_template")
    folder.mkdir()
    template.mkdir()
    write_template(Chat(kind="chat"), model.path, template)
    inputs = generate.Inputs(model=model, template=artifact(template, "tokenize"))
    with serving(Script(MODEL, lambda body: completion(text))) as url:
        generate.run(CONFIG, inputs, Workspace(folder), Resources(server_url=url))
    return artifact(folder, "generate")


def _judge(
    config: judge.Config,
    answers: Artifact,
    model: Artifact,
    out: Workspace,
    script: Script,
    opponent: Artifact | None = None,
) -> dict[str, Any]:
    inputs = judge.Inputs(answers=answers, opponent=opponent, model=model)
    with serving(script) as url:
        return judge.run(config, inputs, out, Resources(server_url=url))


def _score(answers: Artifact, judgments: Workspace, out: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The metrics of the step, and scores.json."""
    out.mkdir()
    inputs = score.Inputs(answers=answers, judgments=artifact(judgments.path, "judge"))
    metrics = score.run(score.Config(scorer=mt_bench.Scorer(name="mt_bench")), inputs, Workspace(out), Resources())
    return metrics, json.loads((out / "scores.json").read_text())


def _rewrite(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_turn_is_rated(answers: Artifact, tiny_model: Artifact, workspace: Workspace):
    metrics = _judge(SINGLE, answers, tiny_model, workspace, Script(MODEL, lambda body: completion("Rating: [[7]]")))
    rows = _rows(workspace / "judgments.jsonl")
    assert [(row["id"], row["turn"], row["rating"]) for row in rows] == [
        ("1", 0, 7.0),
        ("1", 1, 7.0),
        ("2", 0, 7.0),
        ("2", 1, 7.0),
    ]
    assert [row["prompt"] for row in rows[:2]] == ["single-v1", "single-v1-multi-turn"]
    assert metrics == {"num_judgments": 4, "num_unparsable": 0, "num_retried": 0, "num_asked": 4}


def test_an_unreadable_rating_is_asked_for_again_then_counted(
    answers: Artifact, tiny_model: Artifact, workspace: Workspace
):
    script = Script(
        MODEL, lambda body: completion("no idea" if len(script.bodies) <= 4 or len(script.bodies) == 6 else "[[3]]")
    )
    metrics = _judge(judge.Config(prompts="demo", num_retries=1), answers, tiny_model, workspace, script)
    assert metrics == {"num_judgments": 4, "num_unparsable": 1, "num_retried": 4, "num_asked": 8}
    assert [body["temperature"] for body in script.bodies] == [0.0] * 4 + [0.7] * 4


def test_a_rerun_asks_for_nothing_twice(answers: Artifact, tiny_model: Artifact, workspace: Workspace):
    script = Script(MODEL, lambda body: completion("[[5]]"))
    _judge(SINGLE, answers, tiny_model, workspace, script)
    _judge(SINGLE, answers, tiny_model, workspace, script)
    assert len(script.bodies) == 4


def test_a_given_start_is_part_of_the_reply(answers: Artifact, tiny_model: Artifact, workspace: Workspace):
    config = judge.Config(prompts="demo", answer_start="Rating: [[", max_tokens=4)
    _judge(config, answers, tiny_model, workspace, Script(MODEL, lambda body: completion("9]]")))
    assert {row["rating"] for row in _rows(workspace / "judgments.jsonl")} == {9.0}


def test_a_model_judging_itself_is_no_measurement(
    answers: Artifact, tiny_model: Artifact, workspace: Workspace, tmp_path: Path
):
    _judge(SINGLE, answers, tiny_model, workspace, Script(MODEL, lambda body: completion("[[6]]")))
    metrics, scores = _score(answers, workspace, tmp_path / "scores")
    assert scores["meaningful"] is False
    assert "judged itself" in scores["note"]
    assert (metrics["value"], metrics["n"]) == (6.0, 2)


def test_a_killed_judge_asks_only_for_the_judgments_that_are_missing(
    answers: Artifact, tiny_model: Artifact, workspace: Workspace
):
    config = judge.Config(prompts="demo", num_repeats=3, temperature=0.5)
    script = Script(MODEL, lambda body: completion(f"[[{1 + len(script.bodies) % 9}]]"))
    _judge(config, answers, tiny_model, workspace, script)
    whole = _rows(workspace / "judgments.jsonl")
    (kept,) = (workspace / ".store" / "answers").glob("*/*.jsonl")
    lines = kept.read_bytes().splitlines(keepends=True)
    assert len(lines) == len(whole) == 12
    kept.write_bytes(b"".join(lines[:7]) + lines[7][:20])  # killed while it wrote the eighth
    (workspace / "judgments.jsonl").unlink()
    again = Script(MODEL, lambda body: completion("[[10]]"))
    _judge(config, answers, tiny_model, workspace, again)
    assert len(again.bodies) == 5
    rows = _rows(workspace / "judgments.jsonl")
    assert sum(row["rating"] == 10 for row in rows) == 5
    assert [{**row, "rating": 0, "text": ""} for row in rows] == [{**row, "rating": 0, "text": ""} for row in whole]


def test_repeats_have_random_numbers_of_their_own(answers: Artifact, tiny_model: Artifact, workspace: Workspace):
    script = Script(MODEL, lambda body: completion("[[5]]"))
    _judge(
        judge.Config(prompts="demo", num_repeats=3, temperature=0.5, num_retries=0),
        answers,
        tiny_model,
        workspace,
        script,
    )
    assert len({body["seed"] for body in script.bodies}) == 12


def test_repeats_without_randomness_are_refused():
    with pytest.raises(ValueError, match="num_repeats: found 3 with temperature 0, expected a temperature above 0"):
        judge.Config(num_repeats=3)


def test_pairs_are_shown_in_both_orders(
    answers: Artifact, opponent: Artifact, tiny_model: Artifact, workspace: Workspace, tmp_path: Path
):
    """A judge that always prefers what it sees first never makes a winner."""
    script = Script(MODEL, lambda body: completion("[[A]]"))
    metrics = _judge(PAIRWISE, answers, tiny_model, workspace, script, opponent)
    rows = _rows(workspace / "judgments.jsonl")
    assert [(row["id"], row["turn"], row["model_is"], row["winner"]) for row in rows[:4]] == [
        ("1", 0, "A", "model"),
        ("1", 0, "B", "opponent"),
        ("1", 1, "A", "model"),
        ("1", 1, "B", "opponent"),
    ]
    assert [row["prompt"] for row in rows[:4:2]] == ["pair-v2", "pair-v2-multi-turn"]
    assert metrics == {"num_judgments": 8, "num_unparsable": 0, "num_retried": 0, "num_asked": 8}
    assert len({tuple(body["prompt"]) for body in script.bodies}) == 8
    _, scores = _score(answers, workspace, tmp_path / "scores")
    assert scores["metrics"]["win_rate"]["value"] == 0.5
    assert (scores["counts"]["ties"], scores["counts"]["inconsistent"]) == (4, 4)


def test_the_answer_that_is_better_in_both_orders_wins(
    answers: Artifact, opponent: Artifact, tiny_model: Artifact, workspace: Workspace, tmp_path: Path
):
    """The judge reads the prompt: whoever answers with pears is better."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tiny_model / "tokenizer.json"))

    def reply(body: dict[str, Any]) -> Any:
        said = tokenizer.decode(body["prompt"])
        return completion("[[A]]" if said.index("pears") < said.index("apples") else "[[B]]")

    _judge(PAIRWISE, answers, tiny_model, workspace, Script(MODEL, reply), opponent)
    metrics, scores = _score(answers, workspace, tmp_path / "scores")
    assert (metrics["primary"], metrics["value"], metrics["n"]) == ("win_rate", 1.0, 2)
    assert (scores["counts"]["wins"], scores["counts"]["inconsistent"]) == (4, 0)


def test_an_unreadable_verdict_is_asked_for_again_then_counted(
    answers: Artifact, opponent: Artifact, tiny_model: Artifact, workspace: Workspace
):
    script = Script(MODEL, lambda body: completion("[[?]]" if len(script.bodies) <= 9 else "[[C]]"))
    metrics = _judge(
        judge.Config(prompts="demo", mode="pairwise", num_retries=1), answers, tiny_model, workspace, script, opponent
    )
    assert metrics == {"num_judgments": 8, "num_unparsable": 1, "num_retried": 8, "num_asked": 16}
    assert [row["winner"] for row in _rows(workspace / "judgments.jsonl")].count(None) == 1


def test_inputs_that_do_not_fit_the_mode_are_refused(
    answers: Artifact, opponent: Artifact, tiny_model: Artifact, workspace: Workspace
):
    script = Script(MODEL, lambda body: completion("[[5]]"))
    with pytest.raises(UserError, match="pairwise needs another model's answers"):
        _judge(PAIRWISE, answers, tiny_model, workspace, script)
    with pytest.raises(UserError, match="single rates one model's answers"):
        _judge(SINGLE, answers, tiny_model, workspace, script, opponent)
    rows = _rows(opponent / "requests.jsonl")
    rows[1]["turns"][0] = "another question"
    (opponent / "requests.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match="1 of 2 questions were not asked of the opponent in these words, such as 2"):
        _judge(PAIRWISE, answers, tiny_model, workspace, script, opponent)
    assert script.bodies == []


def test_who_judged_is_recorded(answers: Artifact, opponent: Artifact, tiny_model: Artifact, workspace: Workspace):
    third = Artifact(path=tiny_model.path, stage="prepare_model", fingerprint="2" * 64)
    script = Script(served_model_name("2" * 64), lambda body: completion("[[A]]"))
    _judge(PAIRWISE, answers, third, workspace, script, opponent)
    record = json.loads((workspace / "judge.json").read_text())
    assert record == {
        "mode": "pairwise",
        "judge_fingerprint": "2" * 64,
        "judged_fingerprint": "0" * 64,
        "opponent_fingerprint": "1" * 64,
        "judged_by_itself": False,
        "endpoint": None,
        "answered_as": [],
        "prompts_sha256": hashlib.sha256(DEMO_PROMPTS.read_bytes()).hexdigest(),
        "temperature": 0.0,
        "num_repeats": 1,
    }


def test_an_opponent_that_is_the_judge_judges_itself(
    answers: Artifact, opponent: Artifact, tiny_model: Artifact, workspace: Workspace
):
    judging = Artifact(path=tiny_model.path, stage="prepare_model", fingerprint="1" * 64)
    script = Script(served_model_name("1" * 64), lambda body: completion("[[A]]"))
    _judge(PAIRWISE, answers, judging, workspace, script, opponent)
    assert json.loads((workspace / "judge.json").read_text())["judged_by_itself"] is True


def test_prompts_come_from_a_mirror_unless_the_recipe_names_some(tmp_path: Path):
    file = tmp_path / "mt_bench" / "judge_prompts.jsonl"
    assert judge.on_mirror(judge.Config(), tmp_path) == judge.Config()
    file.parent.mkdir()
    file.write_text("{}")
    assert judge.on_mirror(judge.Config(), tmp_path).prompts == file
    assert judge.on_mirror(SINGLE, tmp_path) == SINGLE


def test_preflight_says_that_the_prompts_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    [line] = judge.preflight(judge.Config(), Resources(), {})
    assert line.startswith("judge: prompts: https://raw.githubusercontent.com/lm-sys/FastChat/")
    assert judge.preflight(SINGLE, Resources(), {}) == []
    [line] = judge.preflight(judge.Config(prompts=tmp_path / "none.jsonl"), Resources(), {})
    assert line.endswith("none.jsonl does not exist, expected fastchat, demo or a file")


def test_an_endpoint_judges_in_conversations_and_is_recorded(answers: Artifact, workspace: Workspace):
    """Greedy repeats are allowed there: nobody promises that a hosted model repeats itself."""
    script = Script("judge-1", lambda body: _chat("[[8]]", "judge-1-0613"))
    with serving(script) as url:
        endpoint = Endpoint(url=f"{url}/v1", model="judge-1")
        config = judge.Config(prompts="demo", endpoint=endpoint, num_repeats=3)
        metrics = judge.run(config, judge.Inputs(answers=answers), workspace, Resources())
        again = judge.run(config, judge.Inputs(answers=answers), workspace, Resources())
        more = config.model_copy(update={"num_repeats": 4})
        added = judge.run(more, judge.Inputs(answers=answers), workspace, Resources())
    assert [each["num_asked"] for each in (metrics, again, added)] == [12, 0, 4]
    assert [message["role"] for message in script.bodies[0]["messages"]] == ["system", "user"]
    assert {body["temperature"] for body in script.bodies} == {0.0}
    record = json.loads((workspace / "judge.json").read_text())
    assert (record["endpoint"]["model"], record["answered_as"]) == ("judge-1", ["judge-1-0613"])
    assert (record["judge_fingerprint"], record["judged_by_itself"]) == (endpoint.fingerprint, False)


def test_an_endpoint_that_answered_judges_itself(answers: Artifact, workspace: Workspace):
    """Also where the two were not asked in the same way."""
    with serving(Script("judge-1", lambda body: _chat("[[8]]", "judge-1"))) as url:
        answered = Endpoint(url=f"{url}/v1/", model="judge-1", max_tokens_field="max_completion_tokens")
        fields = {"endpoint": answered.model_dump(mode="json"), "model_fingerprint": answered.fingerprint}
        _rewrite(answers / "generation.json", **fields)
        config = judge.Config(prompts="demo", endpoint=Endpoint(url=f"{url}/v1", model="judge-1"))
        judge.run(config, judge.Inputs(answers=answers), workspace, Resources())
    assert json.loads((workspace / "judge.json").read_text())["judged_by_itself"] is True


def test_what_an_endpoint_cannot_be_asked_is_refused_in_the_recipe():
    url = "https://example.org/v1"
    with pytest.raises(ValueError, match="found completions, expected chat"):
        judge.Config(endpoint=Endpoint(url=url, model="m", api="completions"))
    with pytest.raises(ValueError, match="answer_start: found 'Rating: "):
        judge.Config(endpoint=Endpoint(url=url, model="m"), answer_start="Rating: [[")


def test_a_judge_is_a_model_or_an_endpoint(answers: Artifact, tiny_model: Artifact, workspace: Workspace):
    config = judge.Config(prompts="demo", endpoint=Endpoint(url="https://example.org/v1", model="m"))
    with pytest.raises(UserError, match="both or none of a model and an endpoint"):
        judge.run(config, judge.Inputs(answers=answers, model=tiny_model), workspace, Resources())
    with pytest.raises(UserError, match="both or none of a model and an endpoint"):
        judge.run(SINGLE, judge.Inputs(answers=answers), workspace, Resources())


def _chat(text: str, model: str) -> Any:
    message = {"role": "assistant", "content": text}
    return 200, {"model": model, "choices": [{"message": message, "finish_reason": "stop"}]}
