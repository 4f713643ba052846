"""DoRA's row lengths."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import StepFailed
from stages._weights.matrix import TensorMatrix
from stages.adapters import blocks
from stages.adapters.magnitude import row_lengths
from tests.stages.adapters.matrices import quickly, random_weight, start, update, weights


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """So that a small weight comes in several blocks, the last one shorter."""
    monkeypatch.setattr(blocks, "_NUM_ROWS", 3)


@quickly
@given(weights(), st.sampled_from(["BNA", "BAN"]))
def test_lengths_in_blocks_are_the_lengths(weight, order):
    reader, factors = TensorMatrix(weight), start("nlora", weight, order=order)
    assert torch.allclose(row_lengths(reader), weight.norm(dim=1), rtol=1e-12)
    adapted = weight + update(factors, 0.3)
    assert torch.allclose(row_lengths(reader, factors, 0.3), adapted.norm(dim=1), rtol=1e-9)


def test_rows_of_zeros_are_refused():
    weight = random_weight(6, 5)
    weight[2] = weight[4] = 0
    with pytest.raises(StepFailed, match="2 rows of zeros in a weight of 6 x 5, and DoRA divides"):
        row_lengths(TensorMatrix(weight))
