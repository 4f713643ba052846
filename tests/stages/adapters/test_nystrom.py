"""Nystrom starts against the paper's equations 4 to 7 and 16 and against least squares."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stages.adapters.algebra import update_norm
from stages.adapters.base import Factors
from tests.stages.adapters.matrices import (
    RANK,
    SHAPES,
    config,
    error,
    quickly,
    random_weight,
    refusal,
    start,
    update,
    weights,
)

CORES = ["sample", "pinv", "least_squares"]
SAMPLINGS = ["leading", "uniform", "norm", "leverage"]
METHODS = ["nlora", "inttune"]


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("method", METHODS)
def test_factors_are_rows_columns_and_their_crossing(method, sampling):
    weight = random_weight(20, 12)
    factors = start(method, weight, sampling=sampling)
    rows = [weight.tolist().index(row) for row in factors.A_RI.tolist()]
    columns = [weight.T.tolist().index(column) for column in factors.B_OR.T.tolist()]
    assert torch.equal(factors.N_RR, weight[rows][:, columns])
    if sampling == "leading":
        assert rows == columns == [0, 1, 2, 3]


@quickly
@given(weights())
def test_pinv_reproduces_the_leading_rows_and_columns(weight):
    """Equation 6: all blocks but the last are exact, whatever the weight."""
    approximation = update(start("nlora", weight, core="pinv"))
    assert torch.allclose(approximation[:RANK], weight[:RANK], rtol=1e-6, atol=1e-9)
    assert torch.allclose(approximation[:, :RANK], weight[:, :RANK], rtol=1e-6, atol=1e-9)


@quickly
@given(weights())
def test_pinv_is_the_product_of_the_extended_singular_vectors(weight):
    """Equations 5, 15 and 16: U^ Lambda V^' = [A_W; F_W] A_W^+ [A_W, B_W]."""
    sample, right, below = weight[:RANK, :RANK], weight[:RANK, RANK:], weight[RANK:, :RANK]
    u, s, v = torch.linalg.svd(sample)
    left_vectors = torch.cat([u, below @ v.T / s])
    right_vectors = torch.cat([v.T, right.T @ u / s])
    expected = left_vectors @ torch.diag(s) @ right_vectors.T
    assert torch.allclose(update(start("nlora", weight, core="pinv")), expected, rtol=1e-6, atol=1e-9)


@quickly
@given(weights())
def test_pinv_puts_the_schur_product_into_the_last_block(weight):
    """Equation 6: C_W becomes F_W A_W^+ B_W."""
    approximation = update(start("nlora", weight, core="pinv"))[RANK:, RANK:]
    expected = weight[RANK:, :RANK] @ torch.linalg.solve(weight[:RANK, :RANK], weight[:RANK, RANK:])
    assert torch.allclose(approximation, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("core", ["pinv", "least_squares"])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_weight_of_rank_r_is_reproduced(shape, core, sampling):
    weight = random_weight(shape[0], RANK) @ random_weight(RANK, shape[1], seed=2)
    assert error(weight, start("nlora", weight, core=core, sampling=sampling)) < 1e-9


def test_pinv_tolerance_cuts_the_singular_values_below_it():
    weight = random_weight(12, 12)
    u, _, v = torch.linalg.svd(weight[:RANK, :RANK])
    values = torch.tensor([2.0, 1.0, 0.21, 0.19], dtype=torch.float64)
    weight[:RANK, :RANK] = (u * values) @ v
    for tolerance, num_kept in ((None, 4), (0.01, 4), (0.1, 3), (0.2, 2), (0.6, 1)):
        core = start("nlora", weight, core="pinv", pinv_tolerance=tolerance).N_RR
        expected = (v.T[:, :num_kept] / values[:num_kept]) @ u.T[:num_kept]
        assert torch.allclose(core, expected, atol=1e-10)


def test_pinv_of_a_singular_block_is_not_its_blown_up_inverse():
    weight = random_weight(12, 12)
    weight[1, :RANK] = weight[0, :RANK]
    core = start("nlora", weight, core="pinv").N_RR
    crossing = weight[:RANK, :RANK]
    for equal, other in ((crossing @ core @ crossing, crossing), (core @ crossing @ core, core)):
        assert torch.allclose(equal, other, atol=1e-9)
    assert core.norm() < 1e3


@quickly
@given(weights())
def test_least_squares_solves_the_normal_equations(weight):
    """B'B N AA' = B' W A': what is left of W is orthogonal to B's columns and A's rows."""
    a, n, b = start("nlora", weight, core="least_squares")[:3]
    expected = torch.linalg.solve(b.T @ b, b.T @ weight @ a.T)
    expected = torch.linalg.solve(a @ a.T, expected.T).T
    assert torch.allclose(b @ n @ a, b @ expected @ a, rtol=1e-5, atol=1e-7)
    left = b.T @ (weight - b @ n @ a) @ a.T
    assert left.norm() <= 1e-10 * b.norm() * weight.norm() * a.norm()


@quickly
@given(weights(), st.sampled_from(SAMPLINGS), st.integers(0, 100))
def test_least_squares_is_never_worse(weight, sampling, seed):
    """Than no update (error 1), than the other cores on the same rows and columns, than any multiple of either."""
    errors = {core: error(weight, start("nlora", weight, core=core, sampling=sampling, seed=seed)) for core in CORES}
    assert errors["least_squares"] <= min(1.0, errors["sample"], errors["pinv"]) + 1e-9
    best = start("nlora", weight, core="least_squares", sampling=sampling, seed=seed)
    for nudge in (1e-3, -1e-3):
        nudged = best._replace(N_RR=best.N_RR * (1 + nudge))
        assert error(weight, nudged) >= errors["least_squares"] - 1e-12


@quickly
@given(weights())
def test_the_error_falls_as_the_rank_grows(weight):
    ranks = range(1, min(weight.shape) + 1)
    errors = [error(weight, start("nlora", weight, core="least_squares", rank=rank)) for rank in ranks]
    assert all(later <= earlier + 1e-9 for earlier, later in itertools.pairwise(errors))
    assert errors[-1] < errors[0]
    if weight.shape[0] == weight.shape[1]:
        assert errors[-1] < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("distance", [0.0, 1e-12, 1e-10, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2])
def test_least_squares_survives_rows_and_columns_that_are_almost_equal(dtype, distance):
    """Never worse than without the doubles, up to what is lost to rounding, and never far from what is possible."""
    weight = random_weight(40, 30)
    weight[1] = weight[0] + distance * weight[1]
    weight[:, 3] = weight[:, 2] + distance * weight[:, 3]
    weight = weight.to(dtype)
    factors = start("nlora", weight, core="least_squares", rank=8)
    assert torch.isfinite(factors.N_RR).all()
    singles = weight[[0, *range(2, 8)]], weight[:, [0, 1, 2, 4, 5, 6, 7]]
    without_doubles = best_error(weight, *singles)
    with_them = best_error(weight, weight[:8], weight[:, :8]) if distance else without_doubles
    assert with_them - 1e-6 <= error(weight, factors) <= without_doubles + 1e-3


def best_error(weight: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> float:
    """Of any approximation between these columns and rows: what orthonormal bases of them leave of W."""
    left, right = torch.linalg.qr(columns.double()).Q, torch.linalg.qr(rows.double().T).Q
    return error(weight, Factors(right.T, left.T @ weight.double() @ right, left))


def test_least_squares_of_zeros_is_zero():
    factors = start("nlora", torch.zeros(12, 10), core="least_squares")
    assert not factors.N_RR.any()


@pytest.mark.parametrize("alpha", [None, 1.0, 32.0])
@pytest.mark.parametrize("options", [{"core": core} for core in CORES] + [{"sampling": "norm"}])
def test_scale_is_the_share_of_the_weight(options, alpha):
    weight = random_weight(20, 12)
    chosen = config("nlora", scale=0.1, alpha=alpha, **options)
    factors = start("nlora", weight, scale=0.1, alpha=alpha, **options)
    share = float(update(factors, chosen.scaling).norm() / weight.norm())
    assert share == pytest.approx(0.1, rel=1e-6)
    assert update_norm(factors, chosen.scaling) == pytest.approx(0.1 * float(weight.norm()), rel=1e-6)
    plain = start("nlora", weight, alpha=alpha, **options)
    assert torch.allclose(factors.N_RR / factors.N_RR.norm(), plain.N_RR / plain.N_RR.norm())


def test_scale_leaves_a_zero_update_alone():
    factors = start("nlora", torch.zeros(12, 10), scale=0.1)
    assert not factors.N_RR.any()


@pytest.mark.parametrize("core", CORES)
def test_bfloat16_weights_start_in_float32(core):
    weight = random_weight(12, 12).bfloat16()
    factors = start("nlora", weight, core=core)
    assert torch.equal(factors.A_RI, weight[:RANK].float())
    assert {tensor.dtype for tensor in factors[:3]} == {torch.float32}
    in_double = start("nlora", weight.double(), core=core)
    assert torch.allclose(factors.N_RR.double(), in_double.N_RR, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_the_start_is_subtracted_unless_kept(method):
    assert config(method).subtracts_start
    assert not config(method, residual="keep").subtracts_start  # the paper's own code


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"core": "pinvv"}, "'sample', 'pinv' or 'least_squares'"),
        ({"sampling": "random"}, "'leading', 'uniform', 'norm' or 'leverage'"),
        ({"residual": "drop"}, "'keep' or 'subtract'"),
        ({"pinv_tolerance": 0.1}, "pinv_tolerance: found with core: sample"),
        ({"pinv_tolerance": 0.1, "core": "least_squares"}, "pinv_tolerance: found with core: least_squares"),
        ({"pinv_tolerance": 1.0, "core": "pinv"}, "less than 1"),
        ({"pinv_tolerance": 0.0, "core": "pinv"}, "greater than 0"),
        ({"scale": 0.0}, "greater than 0"),
        ({"core": "least_squares", "residual": "keep"}, "core: least_squares with residual: keep"),
    ],
)
def test_options_that_make_no_sense_are_refused(method, options, named):
    assert named in refusal(method, **options)
