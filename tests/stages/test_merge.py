"""merge: the merged model is base and adapter together, and a wrong one is not let through."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.artifact import Artifact
from pipeline.errors import StepFailed
from pipeline.stage import Resources, Workspace
from stages import init_adapter, merge
from stages._adaptation import merging, verification
from stages._adaptation.probe import load_adapted, load_model
from stages._adaptation.start import read_adapter
from stages._data.prompts import Paper
from stages._data.template import Template
from stages._peft.load import load_factors
from stages._weights.index import shard_files
from stages.adapters.base import Factors
from tests.stages.conftest import artifact, write_tiny_model
from tests.stages.templates import write_template

METHODS = [
    ("lora", {}),
    ("slora", {}),
    ("nlora", {"residual": "keep"}),
    ("nlora", {"residual": "subtract"}),
    ("inttune", {"residual": "keep"}),
]


def inputs(tmp_path: Path, model: Artifact, method: str, options: dict, resources: Resources) -> merge.Inputs:
    """A started adapter and one that looks trained: every factor moved a little."""
    init, trained = tmp_path / "init", tmp_path / "trained"
    init.mkdir()
    trained.mkdir()
    config = {"adapter": {"method": method, "rank": 8, "alpha": 4, **options}, "accept_start": True}
    init_adapter.run(
        init_adapter.Config.model_validate(config), init_adapter.Inputs(model=model), Workspace(init), resources
    )
    (trained / "adapter_config.json").write_bytes((init / "adapter_config.json").read_bytes())
    generator = torch.Generator().manual_seed(5)
    tensors = load_file(init / "adapter_model.safetensors")
    moved = {name: t + 0.05 * torch.randn(t.shape, generator=generator) for name, t in sorted(tensors.items())}
    save_file(moved, trained / "adapter_model.safetensors")
    write_template(Paper(kind="paper"), model.path, trained)
    return merge.Inputs(model=model, init=artifact(init, "init_adapter"), trained=artifact(trained, "train"))


def base_tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for shard in shard_files(folder) for name, tensor in load_file(shard).items()}


@pytest.mark.parametrize(("method", "options"), METHODS)
def test_merged_is_base_and_adapter(method, options, tiny_model, tmp_path, workspace, resources):
    given = inputs(tmp_path, tiny_model, method, options, resources)
    metrics = merge.run(merge.Config(), given, workspace, resources)
    base, merged = base_tensors(tiny_model.path), base_tensors(workspace.path)
    trained, start = load_factors(given.trained.path), load_factors(given.init.path)
    assert base.keys() == merged.keys()
    for name, weight in base.items():
        expected = weight.double()
        module = name.removesuffix(".weight")
        if module in trained:
            expected = expected + update(trained[module])
            if options.get("residual") == "subtract":
                expected = expected - update(start[module])
        assert torch.allclose(merged[name].double(), expected, atol=1e-6)
    start_dir = given.init.path if options.get("residual") == "subtract" else None
    adapted = load_adapted(tiny_model.path, given.trained.path, start_dir=start_dir)
    ids = torch.arange(3, 30)[None]
    with torch.no_grad():
        together, alone = adapted(input_ids=ids).logits, load_model(workspace.path)(input_ids=ids).logits
    assert torch.allclose(together, alone, atol=1e-5)
    assert metrics["max_relative_error"] < 1e-6
    assert metrics["greedy_token_agreement"] == 1.0
    assert json.loads((workspace / "merge_report.json").read_text())["layers"]
    assert (workspace / "template.json").exists()


def update(factors: Factors) -> torch.Tensor:
    a, n, b = (torch.eye(8) if factor is None else factor for factor in factors[:3])
    return 0.5 * (b.double() @ n.double() @ a.double())


def test_rounding_to_bfloat16_is_measured(tiny_model, tmp_path, workspace, resources):
    given = inputs(tmp_path, tiny_model, "nlora", {"residual": "subtract"}, resources)
    metrics = merge.run(merge.Config(dtype="bfloat16"), given, workspace, resources)
    assert all(tensor.dtype == torch.bfloat16 for tensor in base_tensors(workspace.path).values())
    assert json.loads((workspace / "config.json").read_text())["dtype"] == "bfloat16"
    assert 1e-4 < metrics["max_relative_error"] < 1e-2
    assert metrics["max_update_lost"] > metrics["max_relative_error"]


def test_tied_and_untied_heads_stay_what_they_are(tmp_path, workspace, resources):
    folder = tmp_path / "untied"
    folder.mkdir()
    write_tiny_model(folder, tie_word_embeddings=False)
    given = inputs(tmp_path, artifact(folder, "prepare_model"), "lora", {}, resources)
    merge.run(merge.Config(), given, workspace, resources)
    assert torch.equal(base_tensors(folder)["lm_head.weight"], base_tensors(workspace.path)["lm_head.weight"])


def test_a_wrong_merge_is_stopped(tiny_model, tmp_path, workspace, resources):
    given = inputs(tmp_path, tiny_model, "lora", {}, resources)
    merge.run(merge.Config(), given, workspace, resources)
    method = read_adapter(given.init.path)
    updates = merging.read_changes(merging.Sources(given.model.path, given.init.path, given.trained.path), method)
    shard = shard_files(workspace.path)[0]
    tensors = load_file(shard)
    name = next(name for name in tensors if "down_proj" in name)
    tensors[name][0, 0] += 1.0
    save_file(tensors, shard, metadata={"format": "pt"})
    worst = max(verification.layer_errors(tiny_model.path, workspace.path, updates), key=lambda e: e["relative_error"])
    assert f"{worst['module']}.weight" == name
    metrics = {"max_relative_error": worst["relative_error"], "probe_logit_error": 0.0, "dtype": "float32"}
    with pytest.raises(StepFailed, match="not what was trained"):
        verification.require_agreement(metrics, torch.float32)
    with pytest.raises(StepFailed, match="max_relative_error is nan"):
        verification.require_agreement({**metrics, "max_relative_error": math.nan}, torch.float32)
    tensors["model.embed_tokens.weight" if "model.embed_tokens.weight" in tensors else "model.norm.weight"] += 1
    save_file(tensors, shard, metadata={"format": "pt"})
    with pytest.raises(StepFailed, match="yet it is not the base's"):
        verification.account_for_tensors(tiny_model.path, workspace.path, updates, torch.float32)


def test_adapters_of_different_matrices(tiny_model, tmp_path, workspace, resources):
    given = inputs(tmp_path, tiny_model, "lora", {}, resources)
    file = given.trained / "adapter_model.safetensors"
    save_file({name: t for name, t in load_file(file).items() if "down_proj" not in name}, file)
    with pytest.raises(StepFailed, match="different matrices"):
        merge.run(merge.Config(), given, workspace, resources)


def test_other_programs_chat_through_the_template_of_the_training(tiny_model, tmp_path, workspace, resources):
    """The model came with a chat template; it was trained with the paper's prompt."""
    from transformers import AutoTokenizer, GenerationConfig

    merge.run(merge.Config(), inputs(tmp_path, tiny_model, "lora", {}, resources), workspace, resources)
    template, tokenizer = Template.load(workspace.path), AutoTokenizer.from_pretrained(workspace.path)
    messages = [{"role": "user", "content": "how many apples ?"}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert ids == template.encode_prompt(tokenizer, messages)
    assert "### Instruction" in tokenizer.apply_chat_template(messages, tokenize=False)
    assert GenerationConfig.from_pretrained(workspace.path).eos_token_id == list(template.stop_token_ids)
