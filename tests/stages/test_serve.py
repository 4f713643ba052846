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
from stages._serving.names import served_model_name
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


def test_adapters_get_names_and_enough_rank(tiny_model: Artifact, tmp_path: Path):
    adapters = {}
    for number, rank in enumerate((8, 20)):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "adapter_config.json").write_text(
            json.dumps(
                {"r": rank, "rank_pattern": {"^q_proj": rank + 1}, "target_modules": ["q_proj", f"a.{number}_proj"]}
            )
        )
        adapters[f"track{number}"] = artifact(folder, "export_adapter", str(number) * 64)
    inputs = serve.Inputs(model=tiny_model, adapters=adapters)
    command = serve.command(CONFIG, inputs, Resources(), 40123)
    assert command[command.index("--max-lora-rank") + 1] == "32"  # the next above 21 that vLLM accepts
    assert command[command.index("--max-loras") + 1] == "2"
    start = command.index("--lora-target-modules")
    assert command[start : start + 4] == ["--lora-target-modules", "0_proj", "1_proj", "q_proj"]
    modules = [json.loads(word) for word in command[command.index("--lora-modules") + 1 :][:2]]
    assert [each["name"] for each in modules] == [served_model_name(each.fingerprint) for each in adapters.values()]
    assert [each["path"] for each in modules] == [str(each.path) for each in adapters.values()]


def test_the_accepted_ranks_are_vllms():
    from typing import get_args

    from vllm.config.lora import MaxLoRARanks

    assert {*serve.LORA_RANKS} == {*get_args(MaxLoRARanks)} - {1}


def test_further_words_do_not_repeat_the_pipelines():
    config = serve.Config(extra_arguments=("--quantization", "fp8"))
    assert config.numerics() != serve.Config().numerics()
    with pytest.raises(ValueError, match="found --dtype, which the pipeline sets itself"):
        serve.Config(extra_arguments=("--dtype=half",))


def test_another_interpreter_serves(tiny_model: Artifact, tmp_path: Path):
    config = CONFIG.model_copy(update={"python": tmp_path / "python"})
    (line,) = serve.preflight(config, Resources(), {})
    assert "found nothing at" in line
    bare = tmp_path / "bare"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')  # an interpreter without site-packages
    bare.chmod(0o755)
    (line,) = serve.preflight(CONFIG.model_copy(update={"python": bare}), Resources(), {})
    assert "has no vLLM" in line
    same = tmp_path / "same"
    same.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    same.chmod(0o755)
    config = CONFIG.model_copy(update={"python": same})
    assert serve.preflight(config, Resources(), {}) == []
    inputs = serve.Inputs(model=tiny_model)
    own = serve.command(CONFIG, inputs, Resources(), 40123)
    assert serve.command(config, inputs, Resources(), 40123) == [str(same), *own[1:]]


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


METRICS = """# HELP vllm:num_requests_running Number of requests in model execution batches.
vllm:num_requests_running{engine="0",model_name="m"} %s
vllm:num_requests_waiting{engine="0",model_name="m"} 0.0
vllm:prompt_tokens_total{engine="0",model_name="m"} 30.0
vllm:generation_tokens_total{engine="0",model_name="m"} %s
vllm:request_success_total{engine="0",finished_reason="stop",model_name="m"} 2.0
vllm:request_success_total{engine="0",finished_reason="length",model_name="m"} 1.0
"""


def test_the_pulse_is_what_the_server_counts(monkeypatch: pytest.MonkeyPatch):
    said = [METRICS % ("1.0", "7.0"), METRICS % ("1.0", "8.0"), METRICS % ("0.0", "8.0"), "no metrics"]
    monkeypatch.setattr("stages._serving.pulse.fetch", lambda *_: said.pop(0).encode())
    first, second = (serve.pulse("http://127.0.0.1:1", None, 1.0) for _ in range(2))
    assert first == (1.0, 0.0, 30.0, 7.0, 3.0)
    assert second != first
    assert serve.pulse("http://127.0.0.1:1", None, 1.0) is None  # nothing to do
    with pytest.raises(ValueError, match="has no vllm:num_requests_running"):
        serve.pulse("http://127.0.0.1:1", None, 1.0)
