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
    assert 0 <= first["seed"] < 2**31
    assert len({body["seed"] for body in script.bodies}) == 4  # every prompt draws with its own


def test_the_second_turn_sees_the_first_answer(inputs: generate.Inputs, workspace: Workspace):
    script = Script(MODEL, lambda body: completion("seven"))
    config = CONFIG.model_copy(
        update={"benchmark": mt_bench.Config(name="mt_bench", questions="demo", limit=1, max_tokens=8)}
    )
    with serving(script) as url:
        generate.run(config, inputs, workspace, Resources(server_url=url))
    first, second = (body["prompt"] for body in script.bodies)
    from tokenizers import Tokenizer

    assert inputs.model
    seven = Tokenizer.from_file(str(inputs.model / "tokenizer.json")).encode("seven", add_special_tokens=False).ids
    assert second[: len(first) + 1] == first + seven


def _run(config: generate.Config, inputs: generate.Inputs, out: Path, store: Path, script: Script) -> dict[str, Any]:
    """In a folder of its own; the number of requests it took as "sent"."""
    out.mkdir(exist_ok=True)
    before = len(script.bodies)
    with serving(script) as url:
        metrics = generate.run(config, inputs, Workspace(out), Resources(server_url=url, store_dir=store))
    return {**metrics, "sent": len(script.bodies) - before}


def test_a_rerun_asks_only_for_what_a_crash_lost(inputs: generate.Inputs, tmp_path: Path):
    script, out, store = Script(MODEL, lambda body: completion("seven")), tmp_path / "out", tmp_path / "store"
    assert _run(CONFIG, inputs, out, store, script)["sent"] == 4
    whole = (out / "answers.jsonl").read_text()
    (kept,) = (store / "answers" / ("0" * 64)).glob("*.jsonl")
    lines = kept.read_bytes().splitlines(keepends=True)
    torn = lines[0] + lines[1].replace(b"seven", b"eight") + lines[2] + lines[3][:40]  # a changed byte, a torn end
    kept.write_bytes(torn)
    metrics = _run(CONFIG, inputs, out, store, script)
    assert (metrics["sent"], metrics["num_asked"]) == (2, 2)
    assert (out / "answers.jsonl").read_text() == whole
    assert _run(CONFIG, inputs, out, store, script)["sent"] == 0


def test_more_of_the_same_asks_only_for_what_is_new(inputs: generate.Inputs, tmp_path: Path):
    script, store = Script(MODEL, lambda body: completion("seven")), tmp_path / "store"
    _run(CONFIG, inputs, tmp_path / "two", store, script)
    more = CONFIG.model_copy(update={"benchmark": CONFIG.benchmark.model_copy(update={"limit": 3})})
    assert _run(more, inputs, tmp_path / "three", store, script)["sent"] == 2
    longer = CONFIG.model_copy(update={"serve": Numerics(max_model_len=4096)})
    script.max_model_len = 4096
    assert _run(longer, inputs, tmp_path / "longer", store, script)["sent"] == 0


def test_answers_of_one_model_are_never_anothers(inputs: generate.Inputs, tmp_path: Path):
    script, store = Script(MODEL, lambda body: completion("seven")), tmp_path / "store"
    _run(CONFIG, inputs, tmp_path / "first", store, script)
    assert inputs.model
    other = inputs.model_copy(update={"model": artifact(inputs.model.path, "merge", "1" * 64)})
    script.model = served_model_name("1" * 64)
    assert _run(CONFIG, other, tmp_path / "second", store, script)["sent"] == 4
    assert len(list((store / "answers").iterdir())) == 2


@pytest.mark.parametrize(
    "changed",
    [
        {"benchmark": CONFIG.benchmark.model_copy(update={"max_tokens": 9})},
        {"serve": Numerics(dtype="bfloat16")},
        {"serve": Numerics(extra_arguments=("--quantization", "fp8"))},
    ],
)
def test_what_can_change_an_answer_is_asked_again(changed: dict[str, Any], inputs: generate.Inputs, tmp_path: Path):
    script, store = Script(MODEL, lambda body: completion("seven")), tmp_path / "store"
    _run(CONFIG, inputs, tmp_path / "first", store, script)
    assert _run(CONFIG.model_copy(update=changed), inputs, tmp_path / "second", store, script)["sent"] == 4


def test_a_server_that_reads_another_prompt_is_refused(inputs: generate.Inputs, workspace: Workspace):
    def one_token_more(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        status, record = completion("seven")
        return status, {**record, "usage": {"prompt_tokens": len(body["prompt"]) + 1, "completion_tokens": 1}}

    with serving(Script(MODEL, one_token_more)) as url, pytest.raises(StepFailed, match="the server read"):
        generate.run(CONFIG, inputs, workspace, Resources(server_url=url))


def test_a_passing_failure_is_asked_again(inputs: generate.Inputs, workspace: Workspace):
    script = Script(MODEL, lambda body: (503, {}) if len(script.bodies) % 2 else completion("seven"))
    with serving(script) as url:
        metrics = generate.run(CONFIG, inputs, workspace, Resources(server_url=url))
    assert metrics["num_answers"] == 4


def test_a_dead_server_fails_the_step_and_keeps_the_answers(
    inputs: generate.Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("stages._serving.vllm_client.VllmClient.__init__.__defaults__", (1.0,))
    script = Script(MODEL, lambda body: completion("seven") if len(script.bodies) <= 2 else (500, {}))
    with pytest.raises(StepFailed, match="stopped answering"):
        _run(CONFIG, inputs, tmp_path / "out", tmp_path / "store", script)
    script.reply = lambda body: completion("seven")
    assert _run(CONFIG, inputs, tmp_path / "out", tmp_path / "store", script)["sent"] == 2


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
