"""A tiny ViT through the same stages: prepared, started, loaded by PEFT, trained, merged."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import ViTConfig, ViTForImageClassification

from pipeline.artifact import Artifact
from pipeline.errors import UserError
from pipeline.stage import Resources, Workspace
from stages import init_adapter, prepare_model
from stages._adaptation import merging
from stages._adaptation.start import read_adapter
from stages._peft.load import adapted_layers, load_adapter, subtract_update
from stages._weights import sources
from stages._weights.index import stored_tensors
from stages._weights.naming import loaded_names
from stages.adapters.base import AdapterConfig
from tests.stages.conftest import artifact, write_tiny_model

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2"]
NUM_LAYERS, NUM_CLASSES = 2, 3
RESOURCES = Resources(device="cpu", num_threads=1)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As the hub has it: under the names of older versions of transformers."""
    folder = tmp_path_factory.mktemp("saved_vit")
    torch.manual_seed(0)
    size = {"hidden_size": 32, "num_hidden_layers": NUM_LAYERS, "num_attention_heads": 2, "intermediate_size": 64}
    vit = ViTForImageClassification(ViTConfig(**size, image_size=16, patch_size=8, num_labels=NUM_CLASSES))
    vit.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def prepared(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    out = tmp_path_factory.mktemp("prepared_vit")
    config = prepare_model.Config(source=prepare_model.Local(kind="local", path=saved))
    prepare_model.run(config, prepare_model.Inputs(), Workspace(out), RESOURCES)
    return artifact(out, "prepare_model")


def load(folder: Path) -> Any:
    return ViTForImageClassification.from_pretrained(folder)


def images() -> torch.Tensor:
    return torch.randn(12, 3, 16, 16, generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def answers(model: Any) -> torch.Tensor:
    return model.eval()(pixel_values=images()).logits


def train(model: Any) -> list[float]:
    """Tell the images apart; the losses."""
    labels = torch.arange(len(images())) % NUM_CLASSES
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(10):
        loss = model(pixel_values=images(), labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


def config_of(method: str = "nlora", **options: Any) -> init_adapter.Config:
    adapter = {"method": method, "rank": 4, "targets": LINEAR, **options}
    return init_adapter.Config.model_validate({"adapter": adapter, "probe": False})


def test_names_in_files_are_those_in_memory(saved, prepared):
    before, after = set(stored_tensors(saved)), set(stored_tensors(prepared.path))
    assert "vit.encoder.layer.0.attention.attention.query.weight" in before
    assert after == set(load(saved).state_dict())
    names = loaded_names(saved, before)
    assert names["vit.encoder.layer.0.attention.attention.query.weight"] == "vit.layers.0.attention.q_proj.weight"
    assert set(names.values()) == after
    assert torch.equal(answers(load(saved)), answers(load(prepared.path)))
    assert loaded_names(prepared.path, after) == {name: name for name in after}
    assert sources.shapes(prepare_model.Local(kind="local", path=saved)) is None  # its names are not known yet


@pytest.mark.parametrize("chosen", [LINEAR, "all-linear", r"vit\.layers\.\d+\.(attention|mlp)\..*"])
def test_started_trained_and_merged(chosen, prepared, workspace, tmp_path):
    config = config_of(targets=chosen)
    metrics = init_adapter.run(config, init_adapter.Inputs(model=prepared), workspace, RESOURCES)
    assert metrics["num_matrices"] == len(LINEAR) * NUM_LAYERS
    base = answers(load(prepared.path))

    model = load_adapter(load(prepared.path), workspace.path, trainable=True)
    assert model.active_peft_config.task_type is None
    assert len(list(adapted_layers(model))) == len(LINEAR) * NUM_LAYERS
    assert not torch.allclose(answers(model), base, atol=1e-4)
    subtract_update(model)
    assert torch.allclose(answers(model), base, atol=1e-5)  # step 0 is the base model
    losses = train(model)
    assert losses[-1] < losses[0] - 0.1
    expected = answers(model)
    assert not torch.allclose(expected, base, atol=1e-2)

    trained = tmp_path / "trained"
    model.save_pretrained(trained)
    merged = Workspace(tmp_path / "merged")
    merged.path.mkdir()
    merge(prepared.path, workspace.path, trained, merged)
    assert torch.allclose(answers(load(merged.path)), expected, atol=1e-4)
    assert torch.allclose(answers(model.merge_and_unload()), expected, atol=1e-4)


def merge(model_dir: Path, init_dir: Path, trained_dir: Path, out: Workspace) -> None:
    adapter = read_adapter(init_dir)
    assert isinstance(adapter, AdapterConfig)
    changes = merging.read_updates(model_dir, init_dir, trained_dir, adapter)
    merging.write_merged(model_dir, changes, torch.float32, out)


@pytest.mark.parametrize("method", ["lora", "slora", "pissa", "olora", "dora"])
def test_other_methods_start_at_the_base_model(method, prepared, workspace):
    init_adapter.run(config_of(method), init_adapter.Inputs(model=prepared), workspace, RESOURCES)
    model = load_adapter(load(prepared.path), workspace.path)
    if read_adapter(workspace.path).subtracts_start:
        subtract_update(model)
    assert torch.allclose(answers(model), answers(load(prepared.path)), atol=1e-5)


def test_a_probe_of_what_says_no_text_is_refused(prepared, workspace, tmp_path):
    config = config_of().model_copy(update={"probe": True})
    (line,) = init_adapter.preflight(config, RESOURCES, {"model": prepared})
    assert line.startswith("init.probe: found a ViTForImageClassification, expected a causal language model")
    assert "init.probe: false" in line
    with pytest.raises(UserError, match=r"init\.probe: false"):
        init_adapter.run(config, init_adapter.Inputs(model=prepared), workspace, RESOURCES)
    write_tiny_model(tmp_path)
    for file in tmp_path.glob("tokenizer*"):
        file.unlink()
    config = init_adapter.Config.model_validate({"adapter": {"method": "nlora", "rank": 4}})
    (line,) = init_adapter.preflight(config, RESOURCES, {"model": artifact(tmp_path, "prepare_model")})
    assert "found no tokenizer" in line


def test_weights_that_are_fused_while_loading_keep_their_names(tmp_path):
    """Renaming the rest would leave a folder that is neither the hub's nor the model's."""
    from transformers import MixtralConfig, MixtralForSequenceClassification

    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = MixtralConfig(**size, num_key_value_heads=2, vocab_size=16, num_local_experts=2)
    MixtralForSequenceClassification(config).save_pretrained(tmp_path)
    names = set(stored_tensors(tmp_path))
    assert any(".experts.1." in name for name in names)
    assert loaded_names(tmp_path, names) == {name: name for name in names}


def test_a_name_that_no_model_has_stays(tmp_path):
    save_file({"something.else": torch.zeros(1)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "own", "architectures": ["OwnClassifier"]}')
    assert loaded_names(tmp_path, ["something.else"]) == {"something.else": "something.else"}
