"""Small weights and the starts that methods make of them."""

from typing import Any

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from stages._adaptation.start import generator_for
from stages._weights.matrix import TensorMatrix
from stages.adapters import AnyAdapter, algebra, initializer, methods
from stages.adapters.base import Factors

RANK = 4
_METHODS, _ADAPTER = methods(), TypeAdapter(AnyAdapter)
SHAPES = [(12, 12), (20, 12), (12, 20)]

quickly = settings(max_examples=30, deadline=None, database=None, derandomize=True)
"""Of a property test: the same examples every time."""


def config(method: str, **options) -> Any:
    """A method's configuration; without more options of rank RANK, and with 1 for what else has no default."""
    fields = _METHODS[method].Config.model_fields if method in _METHODS else {}
    needed = {name: RANK if name == "rank" else 1 for name, field in fields.items() if field.is_required()}
    return _ADAPTER.validate_python({**needed, "method": method, **options})


def start(method: str, weight_OI: torch.Tensor, seed: int = 0, **options) -> Any:
    """A method's factors for a weight."""
    chosen = config(method, **options)
    return initializer(chosen)(TensorMatrix(weight_OI), chosen, generator_for("layer.q_proj", seed))


def refusal(method: str, **options) -> str:
    """What a configuration is refused with: the field and one line, for each thing that its value might have been."""
    with pytest.raises(ValidationError) as caught:
        config(method, **options)
    problems = caught.value.errors()
    assert not any("\n" in problem["msg"] for problem in problems)
    return "\n".join(".".join(map(str, problem["loc"][1:])) + f" {problem['msg']}" for problem in problems).strip()


def random_weight(num_out: int, num_in: int, *, dtype: torch.dtype = torch.float64, seed: int = 1) -> torch.Tensor:
    return torch.randn(num_out, num_in, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def update(factors: Factors, scale: float = 1.0) -> torch.Tensor:
    """S B N A in float64."""
    return algebra.product(factors, scale, torch.float64)


def explicit(factors: Factors) -> torch.Tensor:
    """B N A written out; in the order BAN, B A with N on the first R inputs."""
    a, core, b = factors.A_RI, factors.N_RR, factors.B_OR
    if core is None:
        return b @ a
    core = torch.diag(core) if core.dim() == 1 else core
    if factors.order == "BNA":
        return b @ core @ a
    everywhere = torch.block_diag(core, torch.eye(a.shape[1] - len(core), dtype=a.dtype))
    return b @ a @ everywhere


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
