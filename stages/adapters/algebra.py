"""Algebra of s B N A without forming it. Shapes: A [R, I], N [R, R] (or its diagonal, or none), B [O, R]."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from stages.adapters.base import Factors, Order


def folded(factors: Factors) -> tuple[torch.Tensor, torch.Tensor]:
    """(A' [R, I], B [O, R]) with B A' = B N A: the same update as an ordinary LoRA of the same rank."""
    return fold(factors.A_RI, factors.N_RR, factors.order), factors.B_OR


def fold(a_RI: torch.Tensor, core_RR: torch.Tensor | None, order: Order = "BNA") -> torch.Tensor:
    """A' = N A; in the order BAN, A with its first R columns multiplied by N."""
    import torch

    if core_RR is None:
        return a_RI
    if core_RR.dim() == 1:
        return core_RR[:, None] * a_RI
    if order == "BNA":
        return core_RR @ a_RI
    rank = len(core_RR)
    return torch.cat([a_RI[:, :rank] @ core_RR, a_RI[:, rank:]], dim=1)


def update_norm(factors: Factors, scale: float) -> float:
    """||s B N A||_F in float64, from the R x R triangles of B and (N A)': squares of the factors would lose the small
    product of a large core.
    """
    import torch

    right_RI, left_OR = folded(cast(factors, torch.float64))
    left_RR, right_RR = (torch.linalg.qr(factor, mode="r").R for factor in (left_OR, right_RI.T))
    return scale * float(torch.linalg.matrix_norm(left_RR @ right_RR.T))


def condition(core: torch.Tensor) -> float | None:
    """Largest over smallest singular value of the core; None where it is singular to machine precision."""
    import torch

    value = float(torch.linalg.cond((core.diag() if core.dim() == 1 else core).double()))
    return value if math.isfinite(value) else None


def product(factors: Factors, scale: float, dtype: torch.dtype) -> torch.Tensor:
    """The matrix s B N A [O, I], multiplied in `dtype`."""
    right_RI, left_OR = folded(cast(factors, dtype))
    return (left_OR * scale) @ right_RI


def cast(factors: Factors, dtype: torch.dtype) -> Factors:
    """The same factors in another dtype."""
    core = None if factors.N_RR is None else factors.N_RR.to(dtype)
    return factors._replace(A_RI=factors.A_RI.to(dtype), N_RR=core, B_OR=factors.B_OR.to(dtype))
