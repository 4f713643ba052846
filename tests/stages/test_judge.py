"""Ratings: read as FastChat reads them, asked for again when unreadable, counted when they stay so."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.artifact import Artifact
from pipeline.stage import Resources, Workspace
from stages import generate, judge, score
from stages._data.prompts import Chat
from stages._serving.names import served_model_name
from stages.benchmarks import mt_bench
from tests.stages.conftest import artifact
from tests.stages.scripted_server import Script, completion, serving
from tests.stages.templates import write_template
from tests.stages.test_generate import CONFIG

MODEL = served_model_name("0" * 64)


@pytest.fixture
def answers(tiny_model: Artifact, tmp_path: Path) -> Artifact:
    folder, template = tmp_path / "answers", tmp_path / "template"
    folder.mkdir()
    template.mkdir()
    write_template(Chat(kind="chat"), tiny_model.path, template)
    inputs = generate.Inputs(model=tiny_model, template=artifact(template, "tokenize"))
    with serving(Script(MODEL, lambda body: completion("three pears"))) as url:
        generate.run(CONFIG, inputs, Workspace(folder), Resources(server_url=url))
    return artifact(folder, "generate")


def _judge(config: judge.Config, answers: Artifact, model: Artifact, out: Workspace, script: Script) -> dict[str, Any]:
    with serving(script) as url:
        return judge.run(config, judge.Inputs(answers=answers, model=model), out, Resources(server_url=url))


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_turn_is_rated(answers: Artifact, tiny_model: Artifact, workspace: Workspace):
    metrics = _judge(
        judge.Config(), answers, tiny_model, workspace, Script(MODEL, lambda body: completion("Rating: [[7]]"))
    )
    rows = _rows(workspace / "judgments.jsonl")
    assert [(row["id"], row["turn"], row["rating"]) for row in rows] == [
        ("1", 0, 7.0),
        ("1", 1, 7.0),
        ("2", 0, 7.0),
        ("2", 1, 7.0),
    ]
    assert [row["prompt"] for row in rows[:2]] == ["single-v1", "single-v1-multi-turn"]
    assert metrics == {"num_judgments": 4, "num_unparsable": 0, "num_retried": 0}


def test_an_unreadable_rating_is_asked_for_again_then_counted(
    answers: Artifact, tiny_model: Artifact, workspace: Workspace
):
    script = Script(
        MODEL, lambda body: completion("no idea" if len(script.bodies) <= 4 or len(script.bodies) == 6 else "[[3]]")
    )
    metrics = _judge(judge.Config(num_retries=1), answers, tiny_model, workspace, script)
    assert metrics == {"num_judgments": 4, "num_unparsable": 1, "num_retried": 4}
    assert [body["temperature"] for body in script.bodies] == [0.0] * 4 + [0.7] * 4


def test_a_rerun_asks_for_nothing_twice(answers: Artifact, tiny_model: Artifact, workspace: Workspace):
    script = Script(MODEL, lambda body: completion("[[5]]"))
    _judge(judge.Config(), answers, tiny_model, workspace, script)
    _judge(judge.Config(), answers, tiny_model, workspace, script)
    assert len(script.bodies) == 4


def test_a_given_start_is_part_of_the_reply(answers: Artifact, tiny_model: Artifact, workspace: Workspace):
    config = judge.Config(answer_start="Rating: [[", max_tokens=4)
    _judge(config, answers, tiny_model, workspace, Script(MODEL, lambda body: completion("9]]")))
    assert {row["rating"] for row in _rows(workspace / "judgments.jsonl")} == {9.0}


def test_a_model_judging_itself_is_no_measurement(
    answers: Artifact, tiny_model: Artifact, workspace: Workspace, tmp_path: Path
):
    _judge(judge.Config(), answers, tiny_model, workspace, Script(MODEL, lambda body: completion("[[6]]")))
    out = tmp_path / "scores"
    out.mkdir()
    inputs = score.Inputs(answers=answers, judgments=artifact(workspace.path, "judge"))
    metrics = score.run(score.Config(scorer=mt_bench.Scorer(name="mt_bench")), inputs, Workspace(out), Resources())
    scores = json.loads((out / "scores.json").read_text())
    assert scores["meaningful"] is False
    assert "judged itself" in scores["note"]
    assert (metrics["value"], metrics["n"]) == (6.0, 2)
