"""LoRA, against PEFT."""

import math

import pytest
import torch
from peft import get_peft_model_state_dict

from stages._weights.matrix import TensorMatrix
from stages.adapters.lora import init
from tests.stages.adapters.matrices import RANK, SHAPES, config, random_weight, refusal, start
from tests.stages.adapters.parity import (
    assert_trains_alike,
    copy_factors,
    generator_after_peft,
    logits,
    ours,
    pefts,
    pefts_layer,
)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("ours", "pefts"), [("kaiming", True), ("gaussian", "gaussian")])
def test_the_same_seed_gives_pefts_numbers(shape, ours, pefts):
    weight = random_weight(*shape, dtype=torch.float32)
    layer = pefts_layer(weight, seed=5, r=RANK, init_lora_weights=pefts)
    factors = init(TensorMatrix(weight), config("lora", start=ours), generator_after_peft(weight, 5, RANK))
    assert torch.equal(factors.A_RI, layer.lora_A["default"].weight)
    assert torch.equal(factors.B_OR, layer.lora_B["default"].weight)
    assert factors.N_RR is None


def test_the_distributions():
    weight = torch.zeros(2, 100_000)
    kaiming = start("lora", weight).A_RI
    assert kaiming.abs().max() <= 100_000**-0.5
    assert float(kaiming.std()) == pytest.approx(1 / math.sqrt(3 * 100_000), rel=0.01)  # of a uniform distribution
    assert float(start("lora", weight, start="gaussian").A_RI.std()) == pytest.approx(1 / RANK, rel=0.01)


@pytest.mark.parametrize("options", [{}, {"start": "gaussian"}, {"alpha": 16.0}, {"rank_pattern": {"q_proj": 2}}])
def test_it_is_pefts_lora(tiny_model_dir, tmp_path, options):
    alpha, ranks = options.get("alpha", RANK), options.get("rank_pattern", {})
    theirs = pefts(tiny_model_dir, r=RANK, lora_alpha=alpha, rank_pattern=ranks, alpha_pattern=ranks)
    started = ours(tiny_model_dir, tmp_path, "lora", **options)
    assert torch.equal(logits(started), logits(theirs))
    copy_factors(started, theirs)
    assert_trains_alike(started, theirs)
    assert any(tensor.any() for name, tensor in get_peft_model_state_dict(started).items() if "lora_B" in name)


def test_scale():
    assert config("lora").scaling == 1.0  # the paper: alpha = rank
    assert config("lora", alpha=8).scaling == 2.0
    assert config("lora", alpha=8, rank_pattern={"q": 2}).for_module("layer.q").scaling == 4.0


@pytest.mark.parametrize(
    ("options", "named"),
    [({"start": "xavier"}, "'kaiming' or 'gaussian'"), ({"core": "pinv"}, "core"), ({"dora": True}, "dora")],
)
def test_what_is_refused(options, named):
    assert named in refusal("lora", **options)
