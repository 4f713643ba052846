"""DoRA, against PEFT."""

import pytest
import torch
from peft import get_peft_model_state_dict

from stages._adaptation.merging import Update
from stages._peft.load import adapted_layers
from stages.adapters.base import Factors
from tests.stages.adapters.matrices import RANK, random_weight, start
from tests.stages.adapters.parity import (
    assert_trains_alike,
    base_weights,
    copy_factors,
    descend,
    logits,
    ours,
    pefts,
    pefts_layer,
)


def test_the_lengths_are_pefts():
    weight = random_weight(20, 12, dtype=torch.float32)
    layer = pefts_layer(weight, seed=5, r=RANK, use_dora=True)
    factors = start("dora", weight)
    assert torch.allclose(factors.magnitude_O, layer.lora_magnitude_vector["default"].weight, rtol=1e-6)
    assert torch.equal(factors.A_RI, start("lora", weight).A_RI)


@pytest.mark.parametrize("alpha", [None, 16.0])
def test_it_is_pefts_dora(tiny_model_dir, tmp_path, alpha):
    theirs = pefts(tiny_model_dir, r=RANK, lora_alpha=alpha or RANK, use_dora=True)
    started = ours(tiny_model_dir, tmp_path, "dora", alpha=alpha)
    assert torch.allclose(logits(started), logits(theirs), atol=1e-5)
    copy_factors(started, theirs)
    assert_trains_alike(started, theirs)


def test_our_merge_is_pefts_merge(tiny_model_dir, tmp_path):
    model = ours(tiny_model_dir, tmp_path, "dora", alpha=16.0)
    base = {name: weight.clone() for name, weight in base_weights(model).items()}
    descend(model)
    trained = {name: _factors(layer) for name, layer in adapted_layers(model)}
    expected = logits(model)
    merged = model.merge_and_unload()
    assert torch.allclose(logits(merged), expected, atol=1e-5)
    for name, weight in base.items():
        update = Update(trained=trained[name], start=None, scaling=4.0)
        assert not torch.allclose(update.applied(weight), weight, atol=1e-5)
        assert torch.allclose(update.applied(weight), merged.get_submodule(name).weight, atol=1e-6)


def test_the_lengths_are_trained(tiny_model_dir, tmp_path):
    model = ours(tiny_model_dir, tmp_path, "dora")
    before = _magnitudes(model)
    descend(model)
    assert all((after != before[name]).any() for name, after in _magnitudes(model).items())


def _magnitudes(model) -> dict[str, torch.Tensor]:
    state = get_peft_model_state_dict(model).items()
    return {name: tensor.clone() for name, tensor in state if "magnitude" in name}


def _factors(layer) -> Factors:
    a, b, lengths = (
        part["default"].weight.detach().clone() for part in (layer.lora_A, layer.lora_B, layer.lora_magnitude_vector)
    )
    return Factors(a, None, b, lengths)
