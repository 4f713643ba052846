"""The merged model against the served one: what merge saw it say is asked before the first question."""

import asyncio
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline import machine
from pipeline.artifact import Artifact
from pipeline.errors import StepFailed
from pipeline.stage import Resources, Workspace
from stages import generate, merge, prepare_model
from stages._serving import probes
from stages._serving.probes import Probe
from stages._serving.settings import Numerics
from stages._serving.transformers_engine import TransformersEngine
from stages._weights.index import shard_files
from tests.stages.conftest import artifact
from tests.stages.test_merge import inputs

FLOAT32 = Numerics(engine="transformers", dtype="float32", max_model_len=64)


@pytest.fixture
def merged(tiny_model: Artifact, tmp_path: Path, workspace: Workspace, resources: Resources) -> Artifact:
    merge.run(merge.Config(), inputs(tmp_path, tiny_model, "lora", {}, resources), workspace, resources)
    return artifact(workspace.path, "merge")


def compared(merged: Artifact, served: Path, resources: Resources, numerics: Numerics = FLOAT32) -> Mapping[str, Any]:
    async def ask() -> Mapping[str, Any]:
        async with TransformersEngine(served, None, numerics, resources) as engine:
            return await probes.require_agreement(engine, merged, numerics)

    return asyncio.run(ask())


def test_the_merged_model_itself_agrees(merged: Artifact, resources: Resources):
    metrics = compared(merged, merged.path, resources)
    assert metrics["served_token_agreement"] == 1.0
    assert metrics["num_served_tokens_compared"] > 30  # of 4 x 16
    assert metrics["served_logprob_error"] < 1e-4


def test_another_model_is_refused(merged: Artifact, tiny_model: Artifact, resources: Resources):
    """The base, which happens to choose the same tokens."""
    with pytest.raises(StepFailed, match=r"differ by 0\.\d+ a token, expected at most 0.01 in float32"):
        compared(merged, tiny_model.path, resources)


def test_one_wrong_token_is_one_disagreement(merged: Artifact, resources: Resources):
    (first, *others) = probes.read(merged)
    place = max(range(len(first.gaps)), key=lambda each: first.gaps[each])
    wrong = [token + 1 if number == place else token for number, token in enumerate(first.token_ids)]
    cut = place + 1
    short = first.model_copy(
        update={"token_ids": tuple(wrong[:cut]), "logprobs": first.logprobs[:cut], "gaps": (9.0,) * cut}
    )
    probes.write([short, *others], merged.path)
    with pytest.raises(StepFailed, match="it chose") as raised:
        compared(merged, merged.path, resources)
    equal, number = (int(word) for word in str(raised.value).split() if word.isdigit())
    assert equal == number - 1


def test_near_ties_and_what_does_not_fit_are_not_compared():
    gaps = (2.0, 0.5, 2.0, 2.0, 2.0)
    probe = Probe(prompt_ids=(1, 2, 3), token_ids=(4, 5, 6, 7, 8), logprobs=(-1.0,) * 5, gaps=gaps)
    assert list(probe.clear_spans(1.0, 5)) == [(0, 1), (2, 5)]
    assert list(probe.clear_spans(3.0, 5)) == []
    assert [probe.num_fitting(length) for length in (None, 9, 8, 4, 2)] == [5, 5, 4, 0, 0]


def test_generate_records_the_agreement_and_refuses_another_model(
    merged: Artifact, tmp_path: Path, resources: Resources
):
    questions = tmp_path / "questions.jsonl"
    questions.write_text('{"question": "how many apples ?", "answer": "two"}\n')
    config = generate.Config.model_validate_json(
        json.dumps({
            "benchmark": {"name": "questions", "file": str(questions), "max_tokens": 2},
            "serve": {"engine": "transformers", "dtype": "float32", "max_model_len": 64},
        })
    )  # fmt: skip
    out = Workspace(tmp_path / "answers")
    out.path.mkdir()
    metrics = generate.run(config, generate.Inputs(model=merged), out, resources)
    assert metrics["served_token_agreement"] == 1.0 and metrics["num_answers"] == 1
    for shard in shard_files(merged.path):
        tensors = load_file(shard)
        save_file({name: tensor + 0.1 * torch.randn_like(tensor) for name, tensor in tensors.items()}, shard)
    (out / "answers.jsonl").unlink()
    with pytest.raises(StepFailed, match="does not serve the model that was merged"):
        generate.run(config, generate.Inputs(model=merged), out, resources)
    assert not (out / "answers.jsonl").exists()


def test_what_a_merged_model_said_is_no_part_of_a_model_made_from_it(merged: Artifact, tmp_path: Path):
    source = tmp_path / "source"
    shutil.copytree(merged.path, source)
    out = Workspace(tmp_path / "prepared")
    out.path.mkdir()
    config = prepare_model.Config.model_validate_json(json.dumps({"source": {"kind": "local", "path": str(source)}}))
    prepare_model.run(config, prepare_model.Inputs(), out, Resources())
    assert (merged / "probes.json").exists() and not (out / "probes.json").exists()


def test_without_memory_for_a_whole_model_it_is_refused_or_said(
    monkeypatch, tiny_model, tmp_path, workspace, resources
):
    given = inputs(tmp_path, tiny_model, "lora", {}, resources)
    monkeypatch.setattr(machine, "memory_available_bytes", lambda: 2**16)
    with pytest.raises(
        StepFailed, match=r"merge.verify: found answers, .* 0.0 GiB; with `tensors` every tensor is still"
    ):
        merge.run(merge.Config(), given, workspace, resources)
    assert not list(workspace.path.iterdir())
    metrics = merge.run(merge.Config(verify="tensors"), given, workspace, resources)
    assert metrics["verified"] == "tensors" and metrics["max_relative_error"] < 1e-6
    assert "greedy_token_agreement" not in metrics and not (workspace / "probes.json").exists()
