"""Three factors beside PEFT's two, and with DoRA's lengths."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from stages._adaptation.merging import Update
from stages._peft.load import adapted_layers, load_factors
from tests.stages.adapters.layers import SCALE, Net, adapted, factors_of, gradients, inputs, randomize
from tests.stages.adapters.matrices import RANK, config
from tests.stages.adapters.parity import assert_trains_alike, base_weights, logits, ours, pefts, trained_names


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("order", ["BNA", "BAN"])
@pytest.mark.parametrize("method", ["slora", "nlora"])
def test_with_the_identity_for_a_core_it_is_pefts_layer(method, order, dropout, dora):
    """The same outputs and the same gradients of A, B and the lengths, also where inputs are dropped."""
    layer = randomize(adapted(method, order=order, dropout=dropout, dora=dora)).get_submodule("base_model.model.first")
    options = {"r": RANK, "lora_alpha": SCALE * RANK, "target_modules": ["first"], "lora_dropout": dropout}
    theirs = get_peft_model(Net(), LoraConfig(**options, use_dora=dora)).get_submodule("base_model.model.first")
    torch.nn.init.eye_(layer.lora_N["default"].weight)
    theirs.load_state_dict({k: v for k, v in layer.state_dict().items() if "lora_N" not in k})
    found, expected = (_output_and_gradients(each) for each in (layer, theirs))
    assert found.keys() == expected.keys() | {"lora_N.default.weight"}
    for name, tensor in expected.items():
        assert torch.allclose(found[name], tensor, atol=1e-10), name


def test_slora_trains_as_lora_while_its_core_is_held_at_the_identity(tiny_model_dir, tmp_path):
    started, theirs = ours(tiny_model_dir, tmp_path, "slora", alpha=8.0), pefts(tiny_model_dir, r=RANK, lora_alpha=8)
    layers = dict(adapted_layers(theirs))
    for name, layer in adapted_layers(started):
        torch.nn.init.eye_(layer.lora_N["default"].weight)
        layer.lora_N.requires_grad_(False)
        layers[name].lora_A.load_state_dict(layer.lora_A.state_dict())
    assert_trains_alike(started, theirs)


def test_dora_keeps_a_kept_start_as_it_is(tiny_model_dir, tmp_path):
    """The lengths are those of W + s B N A, so that nothing is rescaled before it is trained."""
    for order in ("BNA", "BAN"):
        options = {"residual": "keep", "alpha": 8.0, "order": order}
        plain = ours(tiny_model_dir, tmp_path, "nlora", **options)
        dora = ours(tiny_model_dir, tmp_path, "nlora", dora=True, **options)
        assert torch.allclose(logits(dora), logits(plain), atol=1e-5)


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("order", ["BNA", "BAN"])
def test_our_merge_of_a_subtracted_start_is_pefts_merge(tiny_model_dir, tmp_path, order, dora):
    """The files' own arithmetic on the untouched base is what PEFT merges into the reduced one."""
    model = ours(tiny_model_dir, tmp_path, "nlora", alpha=8.0, order=order, dora=dora)
    start, base = load_factors(tmp_path), base_weights(pefts(tiny_model_dir, r=RANK))
    at_start = logits(model)
    with torch.no_grad():
        for name in trained_names(model):
            model.get_parameter(name).mul_(2.0)
    trained = {name: factors_of(layer) for name, layer in adapted_layers(model)}
    expected = logits(model)
    assert not torch.allclose(expected, at_start, atol=1e-3)
    merged = model.merge_and_unload()
    assert torch.allclose(logits(merged), expected, atol=1e-5)
    for name, weight in base.items():
        found = Update(trained[name], start[name], 2.0).applied(weight)
        assert torch.allclose(found, merged.get_submodule(name).weight, atol=1e-5)


@pytest.mark.parametrize("method", ["slora", "nlora"])
def test_lengths_are_counted(method):
    assert config(method, dora=True).num_trainable(20, 12) == config(method).num_trainable(20, 12) + 20


def _output_and_gradients(layer) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    output = layer(inputs(6))
    return {"output": output, **gradients(layer, output)}
