"""Small weights and the starts that methods make of them."""

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from stages._adaptation.start import generator_for
from stages._weights.matrix import TensorMatrix
from stages.adapters import AnyAdapter, algebra, initializer
from stages.adapters.base import AdapterConfig, Factors

RANK = 4
_ADAPTER = TypeAdapter(AnyAdapter)
SHAPES = [(12, 12), (20, 12), (12, 20)]

quickly = settings(max_examples=30, deadline=None, database=None, derandomize=True)
"""Of a property test: the same examples every time."""


def config(method: str, **options) -> AdapterConfig:
    return _ADAPTER.validate_python({"method": method, "rank": RANK, **options})


def start(method: str, weight_OI: torch.Tensor, seed: int = 0, **options) -> Factors:
    chosen = config(method, **options)
    return initializer(chosen)(TensorMatrix(weight_OI), chosen, generator_for("layer.q_proj", seed))


def refusal(method: str, **options) -> str:
    """The one line with which a configuration is refused."""
    with pytest.raises(ValidationError) as caught:
        config(method, **options)
    (problem,) = caught.value.errors()
    assert "\n" not in problem["msg"]
    return f"{'.'.join(str(part) for part in problem['loc'][1:])} {problem['msg']}".strip()


def random_weight(num_out: int, num_in: int, dtype: torch.dtype = torch.float64, seed: int = 1) -> torch.Tensor:
    return torch.randn(num_out, num_in, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def update(factors: Factors, scale: float = 1.0) -> torch.Tensor:
    """S B N A in float64."""
    return algebra.product(factors, scale, torch.float64)


def error(weight_OI: torch.Tensor, factors: Factors) -> float:
    """||W - B N A|| / ||W||"""
    weight_OI = weight_OI.double()
    return float((weight_OI - update(factors)).norm() / weight_OI.norm())


@st.composite
def weights(draw: st.DrawFn) -> torch.Tensor:
    """[O, I] in float64 with 5 <= O, I <= 24: full rank, with columns of sizes that differ by up to 1000."""
    num_out, num_in = draw(st.integers(5, 24)), draw(st.integers(5, 24))
    weight = random_weight(num_out, num_in, seed=draw(st.integers(0, 2**31)))
    spread = draw(st.sampled_from([0.0, 1.0, 3.0]))
    return weight * 10 ** (-spread * torch.linspace(0, 1, num_in, dtype=torch.float64))
