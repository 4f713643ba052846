"""Asking: what is sent, what is kept, what is refused, and how a broken run resumes."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.artifact import Artifact
from pipeline.errors import StepFailed, UserError
from pipeline.stage import Resources, Workspace
from stages import generate
from stages._data.prompts import Chat, Paper
from stages._serving.names import served_model_name
from stages._serving.requests import answer_seed
from stages._serving.settings import Numerics
from stages.benchmarks import mt_bench
from tests.stages.conftest import artifact
from tests.stages.scripted_server import Script, completion, serving
from tests.stages.templates import write_template

MODEL = served_model_name("0" * 64)
CONFIG = generate.Config(benchmark=mt_bench.Config(name="mt_bench", questions="demo", limit=2, max_tokens=8))


@pytest.fixture
def inputs(tiny_model: Artifact, tmp_path_factory: pytest.TempPathFactory) -> generate.Inputs:
    folder = write_template(Chat(kind="chat"), tiny_model.path, tmp_path_factory.mktemp("template"))
    return generate.Inputs(model=tiny_model, template=artifact(folder, "tokenize"))


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_answers_are_kept_in_order_with_their_counts(inputs: generate.Inputs, workspace: Workspace):
    script = Script(MODEL, lambda body: completion("", "length") if len(script.bodies) == 1 else completion(" three"))
    with serving(script) as url:
        metrics = generate.run(CONFIG, inputs, workspace, Resources(server_url=url))
    answers = _rows(workspace / "answers.jsonl")
    assert [(row["id"], row["sample"], row["turn"]) for row in answers] == [
        ("1", 0, 0),
        ("1", 0, 1),
        ("2", 0, 0),
        ("2", 0, 1),
    ]
    assert (metrics["num_answers"], metrics["num_truncated"], metrics["num_empty"]) == (4, 1, 1)
    assert json.loads((workspace / "generation.json").read_text())["model_fingerprint"] == "0" * 64


def test_every_sampling_parameter_and_the_exact_prompt_are_sent(inputs: generate.Inputs, workspace: Workspace):
    script = Script(MODEL, lambda body: completion("seven"))
    with serving(script) as url:
        generate.run(CONFIG, inputs, workspace, Resources(server_url=url))
    first = script.bodies[0]
    assert first["model"] == MODEL
    assert all(isinstance(token, int) for token in first["prompt"])
    assert {"temperature", "top_p", "top_k", "min_p", "repetition_penalty", "stop", "stop_token_ids"} <= first.keys()
    assert first["temperature"] == 0.7  # the writing category
    assert first["seed"] in {answer_seed(0, name, 0, 0) for name in "12"}


def test_the_second_turn_sees_the_first_answer(inputs: generate.Inputs, workspace: Workspace):
    script = Script(MODEL, lambda body: completion("seven"))
    config = CONFIG.model_copy(
        update={"benchmark": mt_bench.Config(name="mt_bench", questions="demo", limit=1, max_tokens=8)}
    )
    with serving(script) as url:
        generate.run(config, inputs, workspace, Resources(server_url=url))
    first, second = (body["prompt"] for body in script.bodies)
    from tokenizers import Tokenizer

    seven = Tokenizer.from_file(str(inputs.model / "tokenizer.json")).encode("seven", add_special_tokens=False).ids
    assert second[: len(first) + 1] == first + seven


def test_a_rerun_asks_only_for_what_is_missing(inputs: generate.Inputs, workspace: Workspace):
    script = Script(MODEL, lambda body: completion("seven"))
    with serving(script) as url:
        generate.run(CONFIG, inputs, workspace, Resources(server_url=url))
        whole = (workspace / "answers.jsonl").read_text()
        lines = whole.splitlines(keepends=True)
        (workspace / "answers.jsonl").write_text("".join(lines[:2]) + lines[2][:40])  # torn by a crash
        script.bodies.clear()
        metrics = generate.run(CONFIG, inputs, workspace, Resources(server_url=url))
    assert (len(script.bodies), metrics["num_asked"]) == (2, 2)
    assert (workspace / "answers.jsonl").read_text() == whole


def test_an_answer_to_another_prompt_is_not_used(inputs: generate.Inputs, workspace: Workspace):
    script = Script(MODEL, lambda body: completion("seven"))
    with serving(script) as url:
        generate.run(CONFIG, inputs, workspace, Resources(server_url=url))
        script.bodies.clear()
        other = CONFIG.model_copy(
            update={"benchmark": mt_bench.Config(name="mt_bench", questions="demo", limit=2, max_tokens=9)}
        )
        generate.run(other, inputs, workspace, Resources(server_url=url))
    assert len(script.bodies) == 4


def test_a_passing_failure_is_asked_again(inputs: generate.Inputs, workspace: Workspace):
    script = Script(MODEL, lambda body: (503, {}) if len(script.bodies) % 2 else completion("seven"))
    with serving(script) as url:
        metrics = generate.run(CONFIG, inputs, workspace, Resources(server_url=url))
    assert metrics["num_answers"] == 4


def test_a_dead_server_fails_the_step_and_keeps_the_answers(
    inputs: generate.Inputs, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("stages._serving.client.Client.__init__.__defaults__", (1.0,))
    script = Script(MODEL, lambda body: completion("seven") if len(script.bodies) <= 2 else (500, {}))
    with serving(script) as url, pytest.raises(StepFailed, match="stopped answering"):
        generate.run(CONFIG, inputs, workspace, Resources(server_url=url))
    assert len(_rows(workspace / "answers.jsonl")) == 2


def test_a_refused_request_fails_at_once(inputs: generate.Inputs, workspace: Workspace):
    script = Script(MODEL, lambda body: (400, {"message": "bad"}))
    with serving(script) as url, pytest.raises(StepFailed, match="refused a request: HTTP 400"):
        generate.run(CONFIG, inputs, workspace, Resources(server_url=url))


def test_another_models_server_is_refused(inputs: generate.Inputs, workspace: Workspace):
    with serving(Script("other", lambda body: completion("x"))) as url, pytest.raises(StepFailed, match="serves other"):
        generate.run(CONFIG, inputs, workspace, Resources(server_url=url))


def test_a_prompt_that_does_not_fit_is_counted_and_never_cut(inputs: generate.Inputs, workspace: Workspace):
    script = Script(MODEL, lambda body: completion("seven"), max_model_len=16)
    config = generate.Config(benchmark=CONFIG.benchmark, serve=Numerics(max_model_len=16))
    with serving(script) as url:
        metrics = generate.run(config, inputs, workspace, Resources(server_url=url))
    assert metrics["num_prompt_too_long"] == 4
    assert script.bodies == []


def test_another_template_than_the_trained_one_is_refused(
    inputs: generate.Inputs, tiny_model_dir: Path, tmp_path: Path, workspace: Workspace
):
    trained = write_template(Paper(kind="paper"), tiny_model_dir, tmp_path)
    for file in tiny_model_dir.iterdir():
        (trained / file.name).symlink_to(file)
    wrong = inputs.model_copy(update={"model": artifact(trained, "merge")})
    with pytest.raises(UserError, match="was trained with the template paper"):
        generate.run(CONFIG, wrong, workspace, Resources(server_url="http://127.0.0.1:1"))


def test_a_template_of_another_tokenizer_is_refused(inputs: generate.Inputs, tmp_path: Path, workspace: Workspace):
    (tmp_path / "tokenizer.json").write_text("{}")
    wrong = inputs.model_copy(update={"model": artifact(tmp_path, "prepare_model")})
    with pytest.raises(UserError, match="its tokenizer"):
        generate.run(CONFIG, wrong, workspace, Resources(server_url="http://127.0.0.1:1"))
