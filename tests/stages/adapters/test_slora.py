"""SLoRA's start; its layer: test_peft_layer.py and test_structured.py."""

import math

import pytest
import torch

from stages._adaptation.start import generator_for
from tests.stages.adapters.matrices import RANK, SHAPES, config, random_weight, refusal, start
from tests.stages.adapters.parity import logits, ours, pefts


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("core", ["kaiming", "gaussian"])
def test_it_starts_by_the_references_formulas(shape, core):
    """A and N: kaiming_uniform_(a=sqrt(5)), one after the other; B: zeros. Table 7 compares N by a normal start."""
    num_out, num_in = shape
    factors = start("slora", random_weight(*shape), core=core)
    generator = generator_for("layer.q_proj", 0)
    a_RI, n_RR = torch.empty(RANK, num_in), torch.empty(RANK, RANK)
    torch.nn.init.kaiming_uniform_(a_RI, a=math.sqrt(5), generator=generator)
    if core == "kaiming":
        torch.nn.init.kaiming_uniform_(n_RR, a=math.sqrt(5), generator=generator)
    else:
        torch.nn.init.normal_(n_RR, std=1 / RANK, generator=generator)
    assert torch.equal(factors.A_RI, a_RI)
    assert torch.equal(factors.N_RR, n_RR)
    assert torch.equal(factors.B_OR, torch.zeros(num_out, RANK))


def test_the_cores_distributions():
    weight = random_weight(300, 300)
    kaiming = start("slora", weight, rank=300).N_RR
    assert kaiming.abs().max() <= 300**-0.5
    assert float(kaiming.std()) == pytest.approx(1 / math.sqrt(3 * 300), rel=0.02)  # of a uniform distribution
    assert float(start("slora", weight, rank=300, core="gaussian").N_RR.std()) == pytest.approx(1 / 300, rel=0.02)


@pytest.mark.parametrize("options", [{}, {"core": "gaussian"}, {"dora": True}, {"order": "BAN"}])
def test_training_starts_at_the_base_model(tiny_model_dir, tmp_path, options):
    base = logits(pefts(tiny_model_dir, r=RANK))
    assert torch.allclose(logits(ours(tiny_model_dir, tmp_path, "slora", **options)), base, atol=1e-5)


def test_what_is_refused():
    assert "'kaiming' or 'gaussian'" in refusal("slora", core="sample")
    assert "residual" in refusal("slora", residual="subtract")
    assert "'BNA' or 'BAN'" in refusal("slora", order="NBA")
    assert config("slora").TRAINABLE == ("A", "N", "B")
