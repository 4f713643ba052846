"""PiSSA, against PEFT."""

import pytest
import torch
from hypothesis import given

from stages._weights.matrix import TensorMatrix
from stages.adapters.pissa import init
from tests.stages.adapters.matrices import (
    RANK,
    SHAPES,
    config,
    quickly,
    random_weight,
    refusal,
    start,
    update,
    weights,
)
from tests.stages.adapters.parity import (
    assert_same_tensors,
    assert_trains_alike,
    base_weights,
    generator_after_peft,
    logits,
    ours,
    pefts,
    pefts_layer,
)


@pytest.mark.parametrize("alpha", [RANK, 16])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("options", "pefts"),
    [
        ({"svd": "exact"}, "pissa"),
        ({"svd": "fast"}, "pissa_niter_4"),
        ({"svd": "fast", "num_iterations": 1}, "pissa_niter_1"),
    ],
)
def test_the_same_seed_gives_pefts_numbers(shape, options, pefts, alpha):
    weight = random_weight(*shape, dtype=torch.float32)
    layer = pefts_layer(weight, seed=5, r=RANK, lora_alpha=alpha, init_lora_weights=pefts)
    chosen = config("pissa", alpha=alpha, **options)
    factors = init(TensorMatrix(weight), chosen, generator_after_peft(weight, 5, RANK))
    assert torch.allclose(factors.A_RI, layer.lora_A["default"].weight, atol=1e-5)
    assert torch.allclose(factors.B_OR, layer.lora_B["default"].weight, atol=1e-5)
    residual = weight - update(factors, chosen.scaling).float()
    assert torch.allclose(residual, layer.base_layer.weight, atol=1e-5)


@pytest.mark.parametrize("alpha", [None, 16.0])
def test_it_is_pefts_pissa(tiny_model_dir, tmp_path, alpha):
    theirs = pefts(tiny_model_dir, r=RANK, lora_alpha=alpha or RANK, init_lora_weights="pissa")
    started = ours(tiny_model_dir, tmp_path, "pissa", alpha=alpha)
    assert_same_tensors(base_weights(started), base_weights(theirs))
    assert_trains_alike(started, theirs)


def test_fast_starts_at_the_base_model_too(tiny_model_dir, tmp_path):
    theirs = pefts(tiny_model_dir, r=RANK, init_lora_weights="pissa_niter_4")
    started = ours(tiny_model_dir, tmp_path, "pissa", svd="fast")
    assert torch.allclose(logits(started), logits(theirs), atol=1e-5)


@quickly
@given(weights())
def test_it_starts_from_the_best_approximation(weight):
    """Eckart and Young: what is left are the singular values beyond the rank; both factors have equal shares."""
    factors = start("pissa", weight)
    singular = torch.linalg.svdvals(weight)
    left = torch.linalg.svdvals(weight - update(factors))
    assert torch.allclose(left[: len(singular) - RANK], singular[RANK:], atol=1e-10)
    assert torch.allclose(factors.A_RI @ factors.A_RI.T, factors.B_OR.T @ factors.B_OR, atol=1e-10)


def test_what_is_refused():
    assert "num_iterations: found with svd: exact" in refusal("pissa", num_iterations=8)
    assert "'exact' or 'fast'" in refusal("pissa", svd="slow")
    assert "residual" in refusal("pissa", residual="keep")
    assert config("pissa").model_validate(config("pissa").model_dump()) == config("pissa")
