"""Algebra of s B N A without forming it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stages.adapters import algebra
from stages.adapters.base import Factors
from tests.stages.adapters.matrices import explicit, quickly, random_weight, start, update

CORES = ["none", "diagonal", "BNA", "BAN"]


def some_factors(core: str, num_out: int = 14, num_in: int = 9, rank: int = 4, seed: int = 0) -> Factors:
    cores = {"none": None, "diagonal": random_weight(rank, rank, seed=seed)[0]}
    return Factors(
        A_RI=random_weight(rank, num_in, seed=seed + 1),
        N_RR=cores.get(core, random_weight(rank, rank, seed=seed + 2)),
        B_OR=random_weight(num_out, rank, seed=seed + 3),
        order="BAN" if core == "BAN" else "BNA",
    )


@pytest.mark.parametrize("core", CORES)
@quickly
@given(num_out=st.integers(4, 20), num_in=st.integers(4, 20), rank=st.integers(1, 4), seed=st.integers(0, 10**6))
def test_product_fold_and_norm_are_those_of_the_update(core, num_out, num_in, rank, seed):
    factors = some_factors(core, num_out, num_in, rank, seed)
    expected = explicit(factors)
    right, left = algebra.folded(factors)
    assert right.shape == (rank, num_in)
    assert left is factors.B_OR
    assert torch.allclose(left @ right, expected)
    assert torch.allclose(algebra.product(factors, 0.7, torch.float64), 0.7 * expected)
    assert algebra.update_norm(factors, 0.7) == pytest.approx(0.7 * float(expected.norm()), rel=1e-12)


def test_the_norm_of_a_small_product_of_large_factors():
    """Where B and N A cancel: their squares have half of the digits left, their triangles all."""
    weight = random_weight(40, 30)
    weight[1] = weight[0] + 1e-6 * weight[1]
    weight[:, 3] = weight[:, 2] + 1e-6 * weight[:, 3]
    factors = start("nlora", weight, core="least_squares")
    assert factors.N_RR.norm() > 1e6
    assert algebra.update_norm(factors, 1.0) == pytest.approx(float(update(factors).norm()), rel=1e-8)


def test_a_zero_update_has_norm_zero():
    factors = some_factors("BNA")
    assert algebra.update_norm(factors._replace(B_OR=torch.zeros(14, 4)), 2.0) == 0.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("core", CORES)
def test_cast_changes_the_dtype_alone(core, dtype):
    factors = some_factors(core)
    cast = algebra.cast(factors, dtype)
    assert cast.order == factors.order
    assert {tensor.dtype for tensor in (cast.A_RI, cast.N_RR, cast.B_OR) if tensor is not None} == {dtype}


def test_condition_of_a_core():
    assert algebra.condition(torch.tensor([4.0, 2.0, 0.5])) == pytest.approx(8.0)
    assert algebra.condition(torch.diag(torch.tensor([4.0, -2.0]))) == pytest.approx(2.0)
    assert algebra.condition(torch.zeros(3, 3)) is None
    hilbert = 1.0 / (torch.arange(3)[:, None] + torch.arange(3) + 1)
    assert algebra.condition(hilbert) == pytest.approx(524.0567775860644, rel=1e-4)
