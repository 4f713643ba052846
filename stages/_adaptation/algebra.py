"""Sizes of s B N A without forming it. Shapes: A [R, I], N [R, R] or None for the identity, B [O, R]."""

import math

import torch

from stages.adapters.base import Factors


def update_norm(factors: Factors, scale: float) -> float:
    """||s B N A||_F from the R x R Gram matrices: tr(N' B'B N AA')."""
    a_RI, b_OR = factors.A_RI.double(), factors.B_OR.double()
    gram_a, gram_b = a_RI @ a_RI.T, b_OR.T @ b_OR
    core_RR = torch.eye(len(gram_a), dtype=torch.float64) if factors.N_RR is None else factors.N_RR.double()
    return scale * math.sqrt(max(0.0, float((core_RR * (gram_b @ core_RR @ gram_a)).sum())))


def condition(core_RR: torch.Tensor) -> float | None:
    """Largest over smallest singular value of the core; None where it is singular to machine precision."""
    value = float(torch.linalg.cond(core_RR.double()))
    return value if math.isfinite(value) else None


def product(factors: Factors, scale: float, dtype: torch.dtype) -> torch.Tensor:
    """The matrix s B N A [O, I], multiplied in `dtype`."""
    right_RI = factors.A_RI.to(dtype)
    if factors.N_RR is not None:
        right_RI = factors.N_RR.to(dtype) @ right_RI
    return (factors.B_OR.to(dtype) * scale) @ right_RI
