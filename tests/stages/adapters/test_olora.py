"""OLoRA, against PEFT, which subtracts alpha / rank times the product of its factors from the base."""

import pytest
import torch
from hypothesis import given

from tests.stages.adapters.matrices import RANK, SHAPES, config, quickly, random_weight, refusal, start, update, weights
from tests.stages.adapters.parity import (
    assert_same_tensors,
    assert_trains_alike,
    base_weights,
    ours,
    pefts,
    pefts_layer,
)


@pytest.mark.parametrize("alpha", [RANK, 16])
@pytest.mark.parametrize("shape", [*SHAPES, (90, 40), (40, 90)])
def test_it_gives_pefts_numbers(shape, alpha):
    weight = random_weight(*shape, dtype=torch.float32)
    layer = pefts_layer(weight, seed=5, r=RANK, lora_alpha=alpha, init_lora_weights="olora")
    factors = start("olora", weight, alpha=alpha)
    assert torch.allclose(factors.A_RI, layer.lora_A["default"].weight, atol=2e-5)
    assert torch.allclose(factors.B_OR, layer.lora_B["default"].weight, atol=2e-5)
    residual = weight - update(factors, config("olora", alpha=alpha).scaling).float()
    assert torch.allclose(residual, layer.base_layer.weight, atol=5e-5)


@pytest.mark.parametrize("alpha", [None, 16.0])
def test_it_is_pefts_olora(tiny_model_dir, tmp_path, alpha):
    theirs = pefts(tiny_model_dir, r=RANK, lora_alpha=alpha or RANK, init_lora_weights="olora")
    started = ours(tiny_model_dir, tmp_path, "olora", alpha=alpha)
    assert_same_tensors(base_weights(started), base_weights(theirs))
    assert_trains_alike(started, theirs)


@quickly
@given(weights())
def test_it_reproduces_the_leading_columns(weight):
    """Q has orthonormal columns; Q R is W on the first `rank` columns, and W within their span on the others."""
    factors = start("olora", weight)
    assert torch.allclose(factors.B_OR.T @ factors.B_OR, torch.eye(RANK, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(update(factors)[:, :RANK], weight[:, :RANK], atol=1e-12)
    assert (factors.B_OR.T @ (weight - update(factors))).norm() < 1e-10


def test_what_is_refused():
    assert "residual" in refusal("olora", residual="keep")
