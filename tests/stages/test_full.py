"""full: every parameter is trained, saved in the base's layout, resumed exactly, and merged by copying."""

import json
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from pipeline.errors import StepFailed
from pipeline.stage import Resources, Workspace
from stages import init_adapter, merge, train
from stages._adaptation.probe import load_model, mean_loss, probe_tokens
from stages._training import layout, requirements
from stages._training.spec import CHECKPOINTS_DIR
from stages._weights.index import shard_files, stored_tensors
from tests.stages.conftest import artifact, write_tiny_model
from tests.stages.test_training_methods import RESUMED_AT, losses, make_spec, run_all, start

RESOURCES = Resources(device="cpu", num_processes=2, num_threads=1)
FULL = {"method": "full"}


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for shard in shard_files(folder) for name, tensor in load_file(shard).items()}


def num_parameters(model_dir: Path) -> int:
    return sum(parameter.numel() for parameter in load_model(model_dir).parameters())


def test_it_has_no_adapters_options():
    assert init_adapter.Config.model_validate({"adapter": FULL}).adapter.method == "full"
    for option in ({"rank": 8}, {"targets": ["q_proj"]}, {"dropout": 0.1}):
        with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
            init_adapter.Config.model_validate({"adapter": {**FULL, **option}})


def test_its_start_is_a_description(tiny_model, workspace, resources):
    chosen = init_adapter.Config.model_validate({"adapter": FULL})
    metrics = init_adapter.run(chosen, init_adapter.Inputs(model=tiny_model), workspace, resources)
    assert sorted(file.name for file in workspace.path.iterdir()) == ["adapter.json", "init_report.json"]
    assert json.loads((workspace / "adapter.json").read_text()) == FULL
    assert metrics["trainable_parameters"] == num_parameters(tiny_model.path)
    shapes = {name: tensor.shape for name, tensor in stored_tensors(tiny_model.path).items()}
    assert init_adapter.num_trainable(chosen, shapes) == num_parameters(tiny_model.path)
    assert init_adapter.preflight(chosen, resources, {"model": tiny_model}) == []


def test_its_memory_is_that_of_everything_trained():
    size = requirements.Size(num_parameters=10**9, num_trainable=10**9)
    needed = requirements.need(train.Config(zero_stage=3), layout.Layout(2, 1, 1), size)
    everything = 10**9 * (4 + 4 + 12)  # weights, gradients, optimizer
    assert everything < needed.memory < everything + 3e9
    assert needed.disk == 16 * 10**9  # a checkpoint


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tiny_model_dir, tiny_tokens_dir) -> tuple[train.Inputs, Path]:
    """(inputs, folder): an uninterrupted and a resumed run of ZeRO stages 2 and 3, from one launch."""
    root = tmp_path_factory.mktemp("full")
    inputs, todo = start(root / "init", FULL, tiny_model_dir, tiny_tokens_dir), []
    for zero_stage in (2, 3):
        whole, resumed = root / f"whole{zero_stage}", root / f"resumed{zero_stage}"
        checkpoint = whole / CHECKPOINTS_DIR / f"step-{RESUMED_AT:08d}"
        todo += [(make_spec(zero_stage, inputs, whole), None), (make_spec(zero_stage, inputs, resumed), checkpoint)]
    run_all(root / "runs.json", todo)
    return inputs, root


@pytest.fixture(params=[2, 3], ids=["zero2", "zero3"])
def trained(request, runs) -> tuple[train.Inputs, Path, Path]:
    """(inputs, an uninterrupted run, one that went on from its checkpoint)"""
    inputs, root = runs
    return inputs, root / f"whole{request.param}", root / f"resumed{request.param}"


@pytest.mark.slow
def test_it_trains_everything_and_resumes_exactly(trained):
    inputs, whole, resumed = trained
    assert losses(resumed) == losses(whole)
    assert losses(whole)[-1] < losses(whole)[0] - 0.5
    before, after, again = tensors(inputs.model.path), tensors(whole), tensors(resumed)
    assert {name: tensor.shape for name, tensor in after.items()} == {name: t.shape for name, t in before.items()}
    assert all(torch.equal(again[name], after[name]) for name in after)
    assert not any(torch.equal(before[name], after[name]) for name in after)
    assert all(tensor.dtype == torch.float32 for tensor in after.values())
    result = json.loads((whole / ".result.json").read_text())
    assert result["trainable_parameters"] == num_parameters(inputs.model.path)
    tokens = probe_tokens(whole)  # the tokenizer came along
    assert mean_loss(load_model(whole), tokens) != mean_loss(load_model(inputs.model.path), tokens)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_merged_model_is_the_trained_one(trained, dtype, tmp_path):
    inputs, whole, _ = trained
    given = merge.Inputs(model=inputs.model, init=inputs.adapter, trained=artifact(whole, "train"))
    metrics = merge.run(merge.Config(dtype=dtype), given, Workspace(tmp_path), RESOURCES)
    expected, merged = tensors(whole), tensors(tmp_path)
    assert all(torch.equal(expected[name].to(getattr(torch, dtype)), merged[name]) for name in expected)
    assert metrics["dtype"] == dtype
    assert metrics["probe_logit_error"] == 0 if dtype == "float32" else metrics["probe_logit_error"] < 0.15
    assert metrics["max_relative_error"] == 0 if dtype == "float32" else 1e-4 < metrics["max_relative_error"] < 1e-2
    layers = json.loads((tmp_path / "merge_report.json").read_text())["layers"]
    assert len(layers) == len(expected)


@pytest.mark.slow
def test_tensors_of_another_model_are_refused(trained, tmp_path):
    inputs, whole, _ = trained
    other = tmp_path / "other"
    other.mkdir()
    write_tiny_model(other, intermediate_size=32)
    given = merge.Inputs(model=artifact(other, "prepare_model"), init=inputs.adapter, trained=artifact(whole, "train"))
    with pytest.raises(StepFailed, match="not of one training"):
        merge.run(merge.Config(), given, Workspace(tmp_path), RESOURCES)


def test_tensors_that_the_model_has_under_other_names_are_refused(tiny_model_dir, tmp_path):
    pytest.importorskip("deepspeed")
    from stages._training import full

    model = load_model(tiny_model_dir)
    assert all(parameter.requires_grad for parameter in full.trainable(model, tiny_model_dir).parameters())
    stored = tensors(tiny_model_dir)
    stored["model.final.weight"] = stored.pop("model.norm.weight")
    save_file(stored, tmp_path / "model.safetensors")
    with pytest.raises(StepFailed, match=r"model\.norm\.weight from tensors of other names"):
        full.trainable(model, tmp_path)
