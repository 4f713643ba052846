"""Rank-stabilised LoRA, against PEFT."""

import pytest
import torch

from tests.stages.adapters.matrices import RANK, config, random_weight, start
from tests.stages.adapters.parity import assert_trains_alike, copy_factors, ours, pefts


@pytest.mark.parametrize("alpha", [None, 16.0])
def test_it_is_pefts_rslora(tiny_model_dir, tmp_path, alpha):
    theirs = pefts(tiny_model_dir, r=RANK, lora_alpha=alpha or RANK, use_rslora=True)
    started = ours(tiny_model_dir, tmp_path, "rslora", alpha=alpha)
    copy_factors(started, theirs)
    assert_trains_alike(started, theirs)


def test_the_scale_is_alpha_over_the_root_of_the_rank():
    assert config("rslora", rank=16, alpha=8).scaling == 2.0
    assert config("rslora", rank=16).scaling == 4.0
    assert config("rslora", rank=16, alpha=8, rank_pattern={"q": 4}).for_module("layer.q").scaling == 4.0


def test_it_starts_as_lora():
    weight = random_weight(20, 12)
    assert torch.equal(start("rslora", weight).A_RI, start("lora", weight).A_RI)
    assert not start("rslora", weight).B_OR.any()
