"""The server command, and the real server end to end on a tiny random model."""

import json
import sys
import time
from pathlib import Path

import httpx
import pytest

from pipeline.artifact import Artifact
from pipeline.process import Process
from pipeline.stage import Resources, Workspace
from stages import generate, serve
from stages._data.prompts import Chat
from stages.benchmarks import mt_bench
from tests.stages.conftest import artifact, write_tiny_model
from tests.stages.templates import write_template

CONFIG = serve.Config(dtype="float32", max_model_len=512, max_num_seqs=8, cpu_kv_cache_gib=1)


@pytest.fixture
def servable_model(tmp_path: Path) -> Artifact:
    """vLLM's attention on CPU takes heads of 32 numbers at least."""
    folder = tmp_path / "model"
    write_tiny_model(folder, num_attention_heads=2, num_key_value_heads=1)
    return artifact(folder, "prepare_model")


def test_the_server_is_local_and_named_after_its_weights(tiny_model: Artifact):
    inputs = serve.Inputs(model=tiny_model)
    command = serve.command(CONFIG, inputs, Resources(), 40123)
    assert command[0] == sys.executable
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert command[command.index("--served-model-name") + 1] == serve.model_name(inputs)
    other = serve.Inputs(model=tiny_model.model_copy(update={"fingerprint": "1" * 64}))
    assert serve.model_name(other) != serve.model_name(inputs)


def test_it_stays_offline(tiny_model: Artifact):
    environment = serve.environment(CONFIG, serve.Inputs(model=tiny_model), Resources())
    assert environment["HF_HUB_OFFLINE"] == environment["VLLM_NO_USAGE_STATS"] == "1"


def test_only_what_changes_answers_identifies_them():
    fast = CONFIG.model_copy(update={"max_num_seqs": 256, "enforce_eager": False})
    assert fast.numerics() == CONFIG.numerics()


@pytest.mark.slow
def test_a_real_server_answers_greedily_as_transformers_does(
    servable_model: Artifact, tmp_path: Path, workspace: Workspace
):
    template = write_template(Chat(kind="chat"), servable_model.path, tmp_path)
    inputs = serve.Inputs(model=servable_model)
    port = free_port()
    process = Process(
        serve.command(CONFIG, inputs, Resources(), port),
        tmp_path / "server.log",
        serve.environment(CONFIG, inputs, Resources()),
    )
    try:
        url = f"http://127.0.0.1:{port}"
        wait(url, process)
        answers = _generate(servable_model, template, url, workspace)
    finally:
        process.stop(grace_seconds=10)
        process.close()
    _compare_with_transformers(answers, workspace, servable_model, template)


def _generate(model: Artifact, template: Path, url: str, workspace: Workspace) -> list[dict]:
    """Greedy (the reasoning, math and coding questions), two turns."""
    config = generate.Config(
        benchmark=mt_bench.Config(name="mt_bench", questions="demo", max_tokens=12), serve=CONFIG.numerics()
    )
    inputs = generate.Inputs(model=model, template=artifact(template, "tokenize"))
    metrics = generate.run(config, inputs, workspace, Resources(server_url=url))
    assert metrics["num_answers"] + metrics["num_prompt_too_long"] >= 16
    again = generate.run(config, inputs, workspace, Resources(server_url=url))
    assert again["num_asked"] == 0
    return [json.loads(line) for line in (workspace / "answers.jsonl").read_text().splitlines()]


def _compare_with_transformers(answers: list[dict], workspace: Workspace, model: Artifact, template_dir: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from stages._data.template import Template

    template, tokenizer = Template.load(template_dir), AutoTokenizer.from_pretrained(model.path)
    network = AutoModelForCausalLM.from_pretrained(model.path, dtype=torch.float32)
    requests = [json.loads(line) for line in (workspace / "requests.jsonl").read_text().splitlines()]
    greedy = [each for each in requests if each["sampling"]["temperature"] == 0]
    assert len(greedy) == 4
    for request in greedy:
        ids = template.encode_prompt(tokenizer, [{"role": "user", "content": request["turns"][0]}])
        first = next(row for row in answers if (row["id"], row["turn"]) == (request["id"], 0))
        generated = network.generate(
            torch.tensor([ids]), max_new_tokens=12, do_sample=False, eos_token_id=list(template.stop_token_ids)
        )[0, len(ids) :]
        assert first["num_prompt_tokens"] == len(ids)
        assert first["text"] == tokenizer.decode(generated, skip_special_tokens=True)


def free_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def wait(url: str, process: Process) -> None:
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        assert process.poll(0.5) is None, process.log_tail()
        try:
            if httpx.get(f"{url}/v1/models", trust_env=False).is_success:
                return
        except httpx.TransportError:
            continue
    raise AssertionError(process.log_tail())
