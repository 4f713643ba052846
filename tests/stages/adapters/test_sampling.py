"""Which rows and columns are drawn, and how often."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stages._weights.matrix import TensorMatrix
from stages.adapters import blocks, sampling
from stages.adapters.sampling import Sampling, choose
from tests.stages.adapters.matrices import quickly, random_weight, weights

RANDOM = ["uniform", "norm", "leverage"]
NUM_DRAWS = 2000


def drawn(weight: torch.Tensor, rank: int, kind: Sampling, seed: int = 0) -> tuple[list[int], list[int]]:
    rows, columns = choose(TensorMatrix(weight), rank, kind, torch.Generator().manual_seed(seed))
    return list(rows), list(columns)


def frequencies(weight: torch.Tensor, kind: Sampling) -> tuple[torch.Tensor, torch.Tensor]:
    """How often each row and each column is the one drawn at rank 1."""
    generator, reader = torch.Generator().manual_seed(0), TensorMatrix(weight)
    counts = torch.zeros(weight.shape[0]), torch.zeros(weight.shape[1])
    for _ in range(NUM_DRAWS):
        for count, (index,) in zip(counts, choose(reader, 1, kind, generator), strict=True):
            count[index] += 1
    return counts[0] / NUM_DRAWS, counts[1] / NUM_DRAWS


@quickly
@given(weights(), st.integers(1, 5), st.sampled_from(["leading", *RANDOM]), st.integers(0, 1000))
def test_distinct_ascending_and_within_the_matrix(weight, rank, kind, seed):
    for chosen, size in zip(drawn(weight, rank, kind, seed), weight.shape, strict=True):
        assert len(set(chosen)) == rank
        assert chosen == sorted(chosen)
        assert 0 <= chosen[0] <= chosen[-1] < size


def test_leading_is_the_first_of_each_and_draws_nothing():
    generator = torch.Generator().manual_seed(3)
    assert drawn(random_weight(9, 7), 3, "leading") == ([0, 1, 2], [0, 1, 2])
    choose(TensorMatrix(random_weight(9, 7)), 3, "leading", generator)
    assert torch.equal(generator.get_state(), torch.Generator().manual_seed(3).get_state())


@pytest.mark.parametrize("kind", RANDOM)
def test_the_seed_alone_decides(kind):
    weight = random_weight(200, 100)
    torch.manual_seed(1)
    first = drawn(weight, 8, kind, seed=0)
    torch.manual_seed(2)
    assert first == drawn(weight, 8, kind, seed=0)
    assert first != drawn(weight, 8, kind, seed=1)


@pytest.mark.parametrize("kind", RANDOM)
def test_all_rows_where_the_rank_is_their_number(kind):
    assert drawn(random_weight(5, 5), 5, kind) == ([0, 1, 2, 3, 4], [0, 1, 2, 3, 4])


@pytest.mark.parametrize("kind", RANDOM)
def test_rows_of_zeros_come_last_but_come(kind):
    weight = torch.zeros(8, 6, dtype=torch.float64)
    weight[[2, 5]] = random_weight(2, 6)
    rows, columns = drawn(weight, 4, kind)
    assert len(rows) == len(columns) == 4
    if kind != "uniform":
        assert {2, 5} <= set(rows)
    assert len(drawn(torch.zeros(8, 6), 4, kind)[0]) == 4


def test_uniform_draws_all_alike():
    weight = torch.diag(torch.tensor([1.0, 10.0, 100.0, 1000.0]))
    for found in frequencies(weight, "uniform"):
        assert torch.allclose(found, torch.full((4,), 0.25), atol=0.04)


def test_norm_draws_in_proportion_to_squared_lengths():
    weight = random_weight(6, 4) * torch.tensor([1.0, 2.0, 0.5, 3.0])
    by_row, by_column = frequencies(weight, "norm")
    total = weight.square().sum()
    assert torch.allclose(by_row, (weight.square().sum(dim=1) / total).float(), atol=0.04)
    assert torch.allclose(by_column, (weight.square().sum(dim=0) / total).float(), atol=0.04)


def test_leverage_draws_in_proportion_to_the_leading_singular_vectors():
    """Not to the lengths: the longest row here lies outside of the leading direction."""
    weight = random_weight(6, 1) @ random_weight(1, 4, seed=2) * 10 + 0.01 * random_weight(6, 4, seed=3)
    u, _, v = torch.linalg.svd(weight)
    by_row, by_column = frequencies(weight, "leverage")
    assert torch.allclose(by_row, u[:, 0].square().float(), atol=0.04)
    assert torch.allclose(by_column, v[0].square().float(), atol=0.04)


def test_leverage_is_blind_to_length_within_the_leading_space():
    """Rows that span the space alone have leverage 1 each, however long they are."""
    weight = torch.zeros(7, 5, dtype=torch.float64)
    weight[1, 0], weight[4, 2] = 1000.0, 1.0
    assert drawn(weight, 2, "leverage", seed=5) == ([1, 4], [0, 2])


def test_lengths_in_blocks_are_the_lengths(monkeypatch):
    monkeypatch.setattr(blocks, "_NUM_ROWS", 4)
    weight = random_weight(11, 6)
    by_row, by_column = sampling._squared_lengths(TensorMatrix(weight))
    assert torch.allclose(by_row, weight.square().sum(dim=1))
    assert torch.allclose(by_column, weight.square().sum(dim=0))
