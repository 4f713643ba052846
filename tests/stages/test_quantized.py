"""train.quantize: the frozen weights under an adapter in 4 bits, for every form of adapter."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from pipeline import recipe
from pipeline.errors import UserError
from pipeline.stage import Resources, Workspace
from stages import merge, train
from stages._adaptation.probe import load_adapted, load_model
from stages._peft.load import adapted_layers
from stages._training import launch, layout, requirements
from stages._training.spec import CHECKPOINTS_DIR
from stages.workflow import Recipe
from tests.stages.conftest import artifact
from tests.stages.test_training_methods import RESUMED_AT, losses, run_all, start

QUICKSTART = Path(__file__).parents[2] / "recipes" / "quickstart.yaml"
RESOURCES = Resources(device="cpu", num_processes=2, num_threads=1)
CASES: dict[str, dict[str, Any]] = {
    "lora": {"method": "lora", "rank": 4},
    "dora": {"method": "dora", "rank": 4},
    "nlora": {"method": "nlora", "rank": 4, "residual": "subtract"},
    "pissa": {"method": "pissa", "rank": 4},
}
KINDS = {"lora": "nf4", "dora": "fp4", "nlora": "nf4", "pissa": "fp4"}


def config(**options) -> train.Config:
    sizes = {"learning_rate": 1e-2, "global_batch_size": 4, "max_steps": 7, "checkpoint_every_steps": RESUMED_AT}
    return train.Config.model_validate({**sizes, **options})


def test_it_is_off_and_then_part_of_no_fingerprint():
    assert train.Config().quantize is None
    assert "quantize" not in train.Config().canonical()
    assert config(quantize="nf4").canonical()["quantize"] == "nf4"


def test_what_it_cannot_go_with_is_refused(monkeypatch):
    with pytest.raises(ValidationError, match="quantize: found nf4 with zero_stage: 3"):
        config(quantize="nf4", zero_stage=3)
    with pytest.raises(UserError, match=r"train\.quantize: found fp4 with method full"):
        recipe.load(QUICKSTART, Recipe, ["init.adapter={method: full}", "train.quantize=fp4"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (line,) = train.preflight(config(quantize="nf4"), RESOURCES, {})
    assert "needs the package bitsandbytes" in line


def test_it_needs_an_eighth_of_the_memory():
    shapes = {"model.layers.0.mlp.up_proj.weight": (10**5, 10**5)}
    size, shared = requirements.size_of(shapes), layout.Layout(1, 1, 1)
    whole, short = (requirements.need(config(quantize=kind), shared, size).memory for kind in (None, "nf4"))
    assert whole - short == pytest.approx(10**10 * (4 - 0.516), rel=1e-3)


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_left_of_the_base_is_quantized(tiny_model_dir, tiny_tokens_dir, tmp_path, kind, dtype):
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    from stages._peft.quantize import quantize_base

    inputs = start(tmp_path / "init", CASES["nlora"], tiny_model_dir, tiny_tokens_dir)
    init_dir = inputs.adapter.path
    plain, short = (load_adapted(tiny_model_dir, init_dir, start_dir=init_dir, dtype=dtype) for _ in range(2))
    quantize_base(short, kind)
    changed = dict(adapted_layers(short))
    assert len(changed) == 14
    for name, layer in adapted_layers(plain):
        weight = layer.get_base_layer().weight
        nearest = dequantize_4bit(*quantize_4bit(weight.data, quant_type=kind, compress_statistics=True))
        found = changed[name].get_base_layer().weight
        assert torch.equal(dequantize_4bit(found.data, found.quant_state), nearest)
        assert 0 < float((nearest - weight).norm() / weight.norm()) < 0.2
    untouched = load_model(tiny_model_dir, dtype).model.embed_tokens.weight
    assert torch.equal(short.base_model.model.model.embed_tokens.weight, untouched)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_model_dir, tiny_tokens_dir) -> dict[tuple[str, str], tuple[train.Inputs, Path]]:
    """(case, kind of run) -> its inputs and folder, all from one launch."""
    root = tmp_path_factory.mktemp("quantized")
    runs, todo = {}, []
    for name, adapter in CASES.items():
        inputs = start(root / name / "init", adapter, tiny_model_dir, tiny_tokens_dir)
        for run in ("whole", "resumed"):
            out = root / name / run
            out.mkdir()
            options = config(quantize=KINDS[name], zero_stage=2, dtype="bfloat16" if name == "pissa" else "float32")
            spec = launch.make_spec(options, inputs, Workspace(out), RESOURCES)
            checkpoint = root / name / "whole" / CHECKPOINTS_DIR / f"step-{RESUMED_AT:08d}"
            todo.append((spec, checkpoint if run == "resumed" else None))
            runs[name, run] = inputs, out
    run_all(root / "runs.json", todo)
    return runs


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_it_trains_resumes_and_merges(name, trained, tmp_path):
    inputs, whole = trained[name, "whole"]
    _, resumed = trained[name, "resumed"]
    assert min(losses(whole)[4:]) < losses(whole)[0]
    assert losses(resumed) == losses(whole)
    files = ("adapter_model.safetensors", "quantization.json")
    assert all((whole / file).read_bytes() == (resumed / file).read_bytes() for file in files)
    assert json.loads((whole / "quantization.json").read_text())["kind"] == KINDS[name]
    given = merge.Inputs(model=inputs.model, init=inputs.adapter, trained=artifact(whole, "train"))
    metrics = merge.run(merge.Config(), given, Workspace(tmp_path), RESOURCES)
    assert metrics["max_relative_error"] < 1e-5
    difference = metrics["probe_loss_merged"] - metrics["probe_loss_quantized"]
    assert metrics["probe_loss_difference"] == difference
    assert 0 < abs(difference) < 0.3
