"""merge: every tensor of adapter and base has its place in the merged model, or is refused by name."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from pipeline.artifact import Artifact
from pipeline.errors import StepFailed
from stages import merge
from stages._adaptation import merging, verification
from stages._adaptation.probe import load_model
from stages._adaptation.start import read_adapter
from stages._weights.index import INDEX_FILE, shard_files
from tests.stages.conftest import artifact, write_tiny_model
from tests.stages.test_merge import base_tensors, inputs

Tensors = dict[str, torch.Tensor]
ADAPTER = "adapter_model.safetensors"


def rewrite(file: Path, change: Callable[[Tensors], object]) -> None:
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"bias": "lora_only"}, r"layers.0.mlp.down_proj.base_layer.bias \(a trained bias: bias, lora_bias, 14 of its"),
        ({"lora_bias": True}, r"down_proj.lora_B.bias \(a trained bias"),
        ({"modules_to_save": ["norm"]}, r"input_layernorm.weight \(a whole trained module: modules_to_save"),
        ({"trainable_token_indices": [3, 5]}, r"trainable_tokens_delta \(another kind of adapter"),
        ({"target_modules": ["q_proj", "embed_tokens"]}, r"lora_embedding_A \(an adapter on an embedding"),
    ],
    ids=["bias", "lora_bias", "modules_to_save", "trainable_tokens", "embedding"],
)
def test_what_peft_keeps_beside_factors_is_refused_by_name(options, found, tmp_path, workspace, resources):
    folder = tmp_path / "model"
    folder.mkdir()
    write_tiny_model(folder, attention_bias=True, mlp_bias=True)
    given = inputs(tmp_path, artifact(folder, "prepare_model"), "lora", {}, resources)
    config = LoraConfig(r=8, **{"target_modules": "all-linear", **options})
    get_peft_model(load_model(folder), config).save_pretrained(tmp_path / "theirs")
    (given.trained / ADAPTER).write_bytes((tmp_path / "theirs" / ADAPTER).read_bytes())
    with pytest.raises(StepFailed, match=found):
        merge.run(merge.Config(), given, workspace, resources)
    assert not list(workspace.path.glob("*.safetensors"))


def test_embeddings_of_a_resized_vocabulary_are_refused_by_name(tiny_model, tmp_path, workspace, resources):
    given = inputs(tmp_path, tiny_model, "lora", {}, resources)
    model = load_model(tiny_model.path)
    model.resize_token_embeddings(70)
    get_peft_model(model, LoraConfig(r=8, target_modules="all-linear")).save_pretrained(
        tmp_path / "theirs", save_embedding_layers=True
    )
    (given.trained / ADAPTER).write_bytes((tmp_path / "theirs" / ADAPTER).read_bytes())
    with pytest.raises(StepFailed, match=r"lm_head.weight \(.* or the embeddings of a resized vocabulary"):
        merge.run(merge.Config(), given, workspace, resources)


@pytest.mark.parametrize(
    ("module", "tied", "found"),
    [
        ("model.embed_tokens", True, "model.embed_tokens is an embedding"),
        ("lm_head", True, "lm_head is the embedding itself"),
        ("lm_head", False, "lm_head is the output head"),
    ],
)
def test_factors_of_an_embedding_or_head_are_refused(module, tied, found, tmp_path, workspace, resources):
    """As linear layers they could be merged, into both where they are tied; no method here starts or trains them."""
    folder = tmp_path / "model"
    folder.mkdir()
    write_tiny_model(folder, tie_word_embeddings=tied)
    given = inputs(tmp_path, artifact(folder, "prepare_model"), "lora", {}, resources)
    factors = {
        f"base_model.model.{module}.lora_A.weight": torch.ones(8, 64),
        f"base_model.model.{module}.lora_B.weight": torch.ones(64, 8),
    }
    for source in (given.init, given.trained):
        rewrite(source / ADAPTER, lambda tensors: tensors.update(factors))
    with pytest.raises(StepFailed, match=f"adapter.targets: {found}"):
        merge.run(merge.Config(), given, workspace, resources)


def test_a_base_of_other_shapes_is_refused(tiny_model, tmp_path, workspace, resources):
    given = inputs(tmp_path, tiny_model, "lora", {}, resources)
    folder = tmp_path / "wider"
    folder.mkdir()
    write_tiny_model(folder, intermediate_size=192)
    other = given.model_copy(update={"model": artifact(folder, "prepare_model")})
    with pytest.raises(
        StepFailed, match=r"down_proj is 64 x 192, its factors are of a matrix of 64 x 128 \(and 5 more"
    ):
        merge.run(merge.Config(), other, workspace, resources)


def test_biases_of_the_base_stay(tmp_path, workspace, resources):
    folder = tmp_path / "model"
    folder.mkdir()
    write_tiny_model(folder, attention_bias=True, mlp_bias=True)
    for shard in shard_files(folder):
        rewrite(shard, lambda tensors: [t.normal_() for name, t in tensors.items() if name.endswith(".bias")])
    merge.run(merge.Config(), inputs(tmp_path, artifact(folder, "base"), "slora", {}, resources), workspace, resources)
    base, merged = base_tensors(folder), base_tensors(workspace.path)
    biases = [name for name in base if name.endswith(".bias")]
    assert len(biases) == 14 and all(torch.equal(base[name], merged[name]) for name in biases)


def test_a_base_with_added_tokens_merges(tmp_path, workspace, resources):
    """The vocabulary that counts is the base's: whoever adds tokens does it before."""
    folder = tmp_path / "model"
    folder.mkdir()
    write_tiny_model(folder)
    model = load_model(folder)
    model.resize_token_embeddings(70)
    (folder / INDEX_FILE).unlink()
    model.save_pretrained(folder)
    merge.run(merge.Config(), inputs(tmp_path, artifact(folder, "base"), "nlora", {}, resources), workspace, resources)
    assert base_tensors(workspace.path)["model.embed_tokens.weight"].shape == (70, 64)
    assert json.loads((workspace / "config.json").read_text())["vocab_size"] == 70


CORRUPTIONS: dict[str, tuple[Callable[[Tensors, str], object], str]] = {
    "missing": (lambda tensors, name: tensors.pop(name), "tensors differ from the base's: {}"),
    "added": (lambda tensors, name: tensors.update(more=tensors[name].clone()), "tensors differ from the base's: more"),
    "shape": (lambda tensors, name: tensors.update({name: tensors[name].T.contiguous()}), r"found {} as .*\(128, 64\)"),
    "dtype": (lambda tensors, name: tensors.update({name: tensors[name].half()}), r"found {} as torch.float16"),
}


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_every_tensor_of_the_merged_model_is_accounted_for(
    corruption: str, tiny_model: Artifact, tmp_path, workspace, resources
):
    change, message = CORRUPTIONS[corruption]
    given = inputs(tmp_path, tiny_model, "lora", {}, resources)
    sources = merging.Sources(given.model.path, given.init.path, given.trained.path)
    changes = merging.read_changes(sources, read_adapter(given.init.path))
    merging.write_merged(tiny_model.path, changes, torch.float32, workspace)
    verification.account_for_tensors(tiny_model.path, workspace.path, changes, torch.float32)
    name = "model.layers.1.mlp.down_proj.weight"
    shard = next(shard for shard in shard_files(workspace.path) if name in load_file(shard))
    rewrite(shard, lambda tensors: change(tensors, name))
    with pytest.raises(StepFailed, match=message.format(name)):
        verification.account_for_tensors(tiny_model.path, workspace.path, changes, torch.float32)
