"""MiLoRA: what PiSSA leaves, and the smallest change of the base that a start of this rank can make."""

import torch
from hypothesis import given

from tests.stages.adapters.matrices import RANK, quickly, start, update, weights


@quickly
@given(weights())
def test_the_base_keeps_the_principal_part(weight):
    factors = start("milora", weight)
    singular = torch.linalg.svdvals(weight)
    kept = torch.linalg.svdvals(weight - update(factors))
    assert torch.allclose(kept[: len(singular) - RANK], singular[:-RANK], atol=1e-10)
    assert torch.allclose(update(factors).norm(), singular[-RANK:].norm(), atol=1e-10)
    assert torch.allclose(factors.A_RI @ factors.A_RI.T, factors.B_OR.T @ factors.B_OR, atol=1e-10)


def test_alpha_scales_the_factors_and_not_the_update():
    weight = torch.diag(torch.arange(1.0, 9.0, dtype=torch.float64))
    assert torch.allclose(update(start("milora", weight, alpha=2 * RANK), 2.0), update(start("milora", weight)))
