"""Singular value decompositions against torch's and against what makes one."""

import pytest
import torch
from hypothesis import given

from stages.adapters.svd import exact_svd, fast_svd
from tests.stages.adapters.matrices import RANK, SHAPES, quickly, random_weight, weights


def generator(seed: int = 7) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("num_iterations", [0, 1, 4])
def test_fast_svd_gives_torchs_numbers_for_the_same_seed(shape, num_iterations):
    weight = random_weight(*shape, dtype=torch.float32)
    torch.manual_seed(7)
    u, s, v = torch.svd_lowrank(weight, RANK, niter=num_iterations)
    ours = fast_svd(weight, RANK, num_iterations, generator())
    assert torch.allclose(ours.U_OR, u, atol=1e-5)
    assert torch.allclose(ours.S_R, s, atol=1e-5)
    assert torch.allclose(ours.V_RI, v.T, atol=1e-5)


@quickly
@given(weights())
def test_exact_svd_is_the_weight(weight):
    u, s, v = exact_svd(weight)
    assert torch.allclose((u * s) @ v, weight, atol=1e-12)
    assert torch.equal(s, s.sort(descending=True).values)


@quickly
@given(weights())
def test_fast_svd_finds_a_weight_of_its_rank(weight):
    left, right = weight[:, :RANK], weight[:RANK]
    svd = fast_svd(left @ right, RANK, 4, generator())
    assert torch.allclose((svd.U_OR * svd.S_R) @ svd.V_RI, left @ right, atol=1e-9)


def test_more_iterations_come_nearer_to_the_best_approximation():
    weight = random_weight(40, 30)
    best = exact_svd(weight).S_R[RANK:].norm()
    errors = []
    for num_iterations in (0, 1, 2, 4, 8):
        u, s, v = fast_svd(weight, RANK, num_iterations, generator())
        errors.append(float((weight - (u * s) @ v).norm() / best))
    assert errors == sorted(errors, reverse=True)
    assert 1.0 <= errors[-1] < 1.01 < errors[0]
