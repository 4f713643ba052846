"""export: what leaves here is loaded by PEFT as it is released, on the untouched base, and says the same."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from pipeline.artifact import Artifact
from pipeline.errors import UserError
from pipeline.stage import Resources, Workspace
from stages import init_adapter, merge, train
from stages._adaptation.low_rank import LowRank
from stages._adaptation.merging import Sources, Updates, load_trained, read_updates
from stages._adaptation.probe import load_model
from stages._adaptation.quantization import Quantization
from stages._adaptation.start import read_adapter
from stages._peft.load import adapted_layers
from stages.adapters import methods
from stages.adapters.base import AdapterConfig
from tests.stages.conftest import artifact
from tests.stages.trained_adapter import export, trained

ADAPTERS = sorted(name for name, module in methods().items() if issubclass(module.Config, AdapterConfig))
SOURCE = {"kind": "hub", "name": "someone/something", "revision": "0" * 40}
PATTERNS = {"alpha": 4, "alpha_pattern": {"q_proj": 6}, "rank_pattern": {"layers.1.mlp.*": 5}}
CASES = [
    *((method, {"alpha": 4}) for method in ADAPTERS),
    *((method, PATTERNS) for method in ADAPTERS if method != "adalora"),  # which has a budget instead
    ("nlora", {"residual": "keep"}),
    ("nlora", {"order": "BAN"}),
    ("nlora", {"dora": True}),
    ("nlora", {"dora": True, "residual": "keep"}),
    ("slora", {"dora": True}),
    ("inttune", {"residual": "keep"}),
]


@pytest.fixture
def model(tiny_model_dir: Path, tmp_path: Path) -> Artifact:
    """The tiny model, as prepare_model leaves one."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_dir, folder)
    (folder / "manifest.json").write_text(json.dumps({"config": {"source": SOURCE}}))
    return artifact(folder, "prepare_model", "a" * 64)


def logits(network) -> torch.Tensor:
    with torch.no_grad():
        return network.eval()(input_ids=torch.arange(3, 30)[None]).logits


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize(("method", "options"), CASES)
def test_plain_peft_says_what_our_adapter_says(method, options, model, tmp_path, resources):
    sources = trained(model, tmp_path, method, **options)
    report = export(model, sources, tmp_path / "out", resources)
    plain = PeftModel.from_pretrained(load_model(model.path, torch.float32), str(tmp_path / "out"))
    ours = logits(load_trained(sources, read_adapter(sources.init_dir)))
    assert relative(ours, logits(load_model(model.path, torch.float32))) > 1e-3
    assert relative(logits(plain), ours) < 1e-5
    assert report["relative_error"] < 1e-6


def test_a_start_that_was_subtracted_doubles_the_rank_unless_its_outer_factors_stayed(model, tmp_path, resources):
    sources = trained(model, tmp_path, "nlora")
    assert export(model, sources, tmp_path / "nlora", resources)["rank"] == 16
    config = json.loads((tmp_path / "nlora" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (16, 16)
    for module, update in updates(sources).items():
        stored = load_file(tmp_path / "nlora" / "adapter_model.safetensors")
        a, b = (stored[f"base_model.model.{module}.lora_{factor}.weight"].double() for factor in "AB")
        assert relative(b @ a, update.delta(torch.float64)) < 1e-6
    only_cores_moved = trained(model, tmp_path / "inttune", "inttune")
    reset_outer_factors(only_cores_moved)
    assert export(model, only_cores_moved, tmp_path / "core", resources)["rank"] == 8


def updates(sources: Sources) -> Updates:
    adapter = read_adapter(sources.init_dir)
    assert isinstance(adapter, AdapterConfig)
    return read_updates(*sources, adapter)


def reset_outer_factors(sources: Sources) -> None:
    """As IntTune leaves them."""
    start, end = (load_file(folder / "adapter_model.safetensors") for folder in (sources.init_dir, sources.trained_dir))
    kept = {name: end[name] if "lora_N" in name else start[name] for name in end}
    save_file(kept, sources.trained_dir / "adapter_model.safetensors")


def test_ranks_that_a_budget_took_are_left_out(model, tmp_path, resources):
    """As AdaLoRA writes them: other ranks in every matrix, and in one of them none."""
    sources = trained(model, tmp_path, "adalora", alpha=4)
    kept = {module: [number % (2 + index) == 1 for number in range(8)] for index, module in enumerate(updates(sources))}
    gone = next(reversed(kept))
    kept[gone] = [False] * 8
    take_ranks(sources.trained_dir, kept)
    report = export(model, sources, tmp_path / "out", resources)
    plain = PeftModel.from_pretrained(load_model(model.path, torch.float32), str(tmp_path / "out"))
    assert relative(logits(plain), logits(load_trained(sources, read_adapter(sources.init_dir)))) < 1e-5
    assert report["rank"] == 4
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert gone.rpartition(".")[2] not in config["target_modules"]
    layers = dict(adapted_layers(plain))
    assert {name: layer.r["default"] for name, layer in layers.items()} == {
        module: sum(each) for module, each in kept.items() if any(each)
    }


def take_ranks(trained_dir: Path, kept: dict[str, list[bool]]) -> None:
    file, config_file = trained_dir / "adapter_model.safetensors", trained_dir / "adapter_config.json"
    tensors = load_file(file)
    for name, tensor in tensors.items():
        module, _, letter = name.removeprefix("base_model.model.").rpartition(".lora_")
        mask = torch.tensor(kept[module])
        tensors[name] = tensor[:, mask].contiguous() if letter == "B" else tensor[mask]
    save_file(tensors, file)
    pattern = {f"{module}.lora_E": each for module, each in kept.items()}
    config_file.write_text(json.dumps({**json.loads(config_file.read_text()), "rank_pattern": pattern}))


@pytest.mark.parametrize(("method", "options"), [("nlora", {}), ("lora", {}), ("nlora", {"dora": True})])
def test_recompression_is_the_best_and_its_error_is_stated(method, options, model, tmp_path, resources):
    sources = trained(model, tmp_path, method, **options)
    report = export(model, sources, tmp_path / "out", resources, rank=3)
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["r"] == 3
    stored = load_file(tmp_path / "out" / "adapter_model.safetensors")
    lost = total = 0.0
    for module, update in updates(sources).items():
        delta = update.delta(torch.float64)
        a, b = (stored[f"base_model.model.{module}.lora_{factor}.weight"].double() for factor in "AB")
        tail = float(torch.linalg.svdvals(delta)[3:].norm())
        assert float((delta - b @ a).norm()) == pytest.approx(tail, rel=1e-5)
        stated = next(matrix for matrix in report["matrices"] if matrix["module"] == module)
        assert stated["relative_error"] == pytest.approx(tail / float(delta.norm()), rel=1e-5)
        lost, total = lost + tail**2, total + float(delta.norm()) ** 2
    assert report["relative_error"] == pytest.approx((lost / total) ** 0.5, rel=1e-5)
    whole = export(model, sources, tmp_path / "whole", resources, rank=8 if method == "lora" else 16)
    assert whole["max_relative_error"] < 1e-6


def test_a_larger_rank_than_the_exact_one_is_refused(model, tmp_path, resources):
    sources = trained(model, tmp_path, "nlora")
    with pytest.raises(UserError, match="got 17, expected at most 16"):
        export(model, sources, tmp_path / "out", resources, rank=17)


def test_a_short_dtype_rounds_the_difference_and_not_its_halves(model, tmp_path, resources):
    """In bfloat16 s [B, -B0] [N A; N0 A0] would lose an update that is small beside the start."""
    sources = trained(model, tmp_path, "nlora")
    report = export(model, sources, tmp_path / "out", resources, dtype="bfloat16")
    assert {t.dtype for t in load_file(tmp_path / "out" / "adapter_model.safetensors").values()} == {torch.bfloat16}
    assert 1e-4 < report["max_relative_error"] < 2**-8


def test_numbers_that_a_dtype_cannot_hold_are_refused(model, tmp_path, resources):
    sources = trained(model, tmp_path, "lora", nudge=1e5)
    with pytest.raises(UserError, match="too large for float16"):
        export(model, sources, tmp_path / "out", resources, dtype="float16")


def test_doras_lengths_stay_where_a_budget_took_every_rank(model, tmp_path, resources):
    sources = trained(model, tmp_path, "slora", dora=True)
    file = sources.trained_dir / "adapter_model.safetensors"
    tensors = load_file(file)
    taken = next(name for name in tensors if "lora_N" in name)
    save_file({**tensors, taken: torch.zeros_like(tensors[taken])}, file)
    export(model, sources, tmp_path / "out", resources)
    plain = PeftModel.from_pretrained(load_model(model.path, torch.float32), str(tmp_path / "out"))
    assert relative(logits(plain), logits(load_trained(sources, read_adapter(sources.init_dir)))) < 1e-5


def test_its_configuration_names_the_base_and_no_folder_of_this_machine(model, tmp_path, resources):
    report = export(model, trained(model, tmp_path, "lora"), tmp_path / "out", resources)
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == (SOURCE["name"], SOURCE["revision"])
    assert report["base"] == {**SOURCE, "fingerprint": "a" * 64}
    assert not any(str(tmp_path) in file.read_text() for file in (tmp_path / "out").glob("*.json"))
    assert (tmp_path / "out" / "template.json").exists()
    source = {"kind": "local", "path": str(model.path)}
    (model.path / "manifest.json").write_text(json.dumps({"config": {"source": source}}))
    report = export(model, Sources(model.path, tmp_path / "init", tmp_path / "trained"), tmp_path / "local", resources)
    assert report["base"]["path"] == "model"
    assert json.loads((tmp_path / "local" / "adapter_config.json").read_text())["base_model_name_or_path"] is None


def test_dora_says_that_vllm_does_not_serve_it(model, tmp_path, resources):
    report = export(model, trained(model, tmp_path, "dora"), tmp_path / "out", resources)
    assert "vLLM" in report["notes"][0]
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["use_dora"]


def test_a_quantised_base_is_mentioned(model, tmp_path, resources):
    sources = trained(model, tmp_path, "lora")
    Quantization(kind="nf4", dtype="float32").write(sources.trained_dir)
    assert "a base in nf4" in export(model, sources, tmp_path / "out", resources)["notes"][0]


def test_full_fine_tuning_has_no_adapter(model, tmp_path, resources):
    (tmp_path / "init").mkdir()
    (tmp_path / "init" / "adapter.json").write_text('{"method": "full"}')
    with pytest.raises(UserError, match=r"full trains the whole model.*--format merged"):
        export(model, Sources(model.path, tmp_path / "init", tmp_path), tmp_path / "out", resources)


def test_merged_on_the_fly_is_what_the_merge_stage_makes(model, tmp_path, workspace, resources):
    sources = trained(model, tmp_path, "nlora")
    export(model, sources, tmp_path / "merged", resources, format="merged", dtype="bfloat16")
    inputs = merge.Inputs(
        model=model, init=artifact(sources.init_dir, "init_adapter"), trained=artifact(sources.trained_dir, "train")
    )
    metrics = merge.run(merge.Config(dtype="bfloat16"), inputs, workspace, resources)
    names = sorted(path.name for path in workspace.path.iterdir() if not path.name.startswith("."))
    assert all((tmp_path / "merged" / name).read_bytes() == (workspace / name).read_bytes() for name in names)
    manifest = {"files": {name: {} for name in names}, "metrics": metrics}
    (workspace / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "copy").mkdir()
    made = artifact(workspace.path, "merge")
    merge.export(merge.Config(), inputs, made, Workspace(tmp_path / "copy"), merge.Export(), resources)
    assert all((tmp_path / "copy" / name).read_bytes() == (workspace / name).read_bytes() for name in names)


def test_rank_is_no_option_of_a_merged_model():
    with pytest.raises(ValidationError, match="leave it out"):
        train.Export(format="merged", rank=4)


def test_a_start_alone(model, tmp_path, resources):
    sources = trained(model, tmp_path, "nlora", residual="keep")
    export_start(model, sources, tmp_path / "out", resources)
    plain = PeftModel.from_pretrained(load_model(model.path, torch.float32), str(tmp_path / "out"))
    ours = logits(load_trained(Sources(model.path, sources.init_dir, sources.init_dir), read_adapter(sources.init_dir)))
    assert relative(logits(plain), ours) < 1e-5
    subtracted = trained(model, tmp_path / "subtracted", "nlora")
    with pytest.raises(UserError, match="starts at the base model itself"):
        export_start(model, subtracted, tmp_path / "none", resources)


def export_start(model: Artifact, sources: Sources, out: Path, resources: Resources) -> None:
    out.mkdir()
    config = init_adapter.Config.model_validate({"adapter": {"method": "lora", "rank": 8}})
    made = artifact(sources.init_dir, "init_adapter")
    options = init_adapter.Export()
    init_adapter.export(config, init_adapter.Inputs(model=model), made, Workspace(out), options, resources)


def test_a_product_that_is_never_formed():
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(9, 4, generator=generator, dtype=torch.float64)
    right = torch.randn(4, 7, generator=generator, dtype=torch.float64)
    matrix = LowRank(left, right)
    assert matrix.norm() == pytest.approx(float((left @ right).norm()), rel=1e-12)
    near = LowRank(left + 1e-12, right)
    assert near.minus(matrix).norm() == pytest.approx(float((torch.full_like(left, 1e-12) @ right).norm()), rel=1e-2)
    shorter = matrix.truncated(2)
    assert shorter.rank == 2
    tail = torch.linalg.svdvals(left @ right)[2:].norm()
    assert float((left @ right - shorter.L_OR @ shorter.M_RI).norm()) == pytest.approx(float(tail), rel=1e-10)
