"""Truncated singular value decompositions of one weight."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch


class Svd(NamedTuple):
    """W ~ U diag(S) V, the largest singular values first."""

    U_OR: torch.Tensor
    S_R: torch.Tensor
    V_RI: torch.Tensor


def exact_svd(weight_OI: torch.Tensor) -> Svd:
    """All min(O, I) of them."""
    import torch

    return Svd(*torch.linalg.svd(weight_OI, full_matrices=False))


def fast_svd(weight_OI: torch.Tensor, rank: int, num_iterations: int, generator: torch.Generator) -> Svd:
    """The largest `rank`, by randomised subspace iteration (Halko et al., 2011, https://arxiv.org/abs/0909.4061, 4.4).

    The numbers that torch.svd_lowrank gives for the same seed; it takes its random ones from the process instead.
    """
    import torch

    if weight_OI.shape[0] < weight_OI.shape[1]:
        u_IR, s_R, v_RO = fast_svd(weight_OI.T, rank, num_iterations, generator)
        return Svd(v_RO.T, s_R, u_IR.T)
    random_IR = torch.randn(weight_OI.shape[1], rank, dtype=weight_OI.dtype, generator=generator)
    basis_OR, _ = torch.linalg.qr(weight_OI @ random_IR)
    for _ in range(num_iterations):
        basis_IR, _ = torch.linalg.qr(weight_OI.T @ basis_OR)
        basis_OR, _ = torch.linalg.qr(weight_OI @ basis_IR)
    u_RR, s_R, v_RI = torch.linalg.svd(basis_OR.T @ weight_OI, full_matrices=False)
    return Svd(basis_OR @ u_RR, s_R, v_RI)
