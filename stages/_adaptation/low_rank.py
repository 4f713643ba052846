"""Matrices given as a product L M that is never formed. Shapes: L [O, R], M [R, I]; in float64 when computed with."""

from typing import NamedTuple

import torch


class LowRank(NamedTuple):
    """The matrix L M [O, I], of rank R at most."""

    L_OR: torch.Tensor
    M_RI: torch.Tensor

    @property
    def rank(self) -> int:
        """R"""
        return len(self.M_RI)

    def minus(self, other: "LowRank") -> "LowRank":
        """The difference of two of them; its R is the sum of theirs."""
        L_OR = torch.cat([self.L_OR, -other.L_OR], dim=1)
        return LowRank(L_OR, torch.cat([self.M_RI, other.M_RI]))

    def norm(self) -> float:
        """The Frobenius norm, from the triangular factors: exact to rounding also where L M nearly cancels."""
        _, upper_l = torch.linalg.qr(self.L_OR)
        _, upper_m = torch.linalg.qr(self.M_RI.T)
        return float(torch.linalg.matrix_norm(upper_l @ upper_m.T))

    def truncated(self, rank: int) -> "LowRank":
        """The nearest matrix of that rank (Eckart and Young), its singular values shared between the factors."""
        q_OR, upper_l = torch.linalg.qr(self.L_OR)
        q_IR, upper_m = torch.linalg.qr(self.M_RI.T)
        u_RR, s_R, v_RR = torch.linalg.svd(upper_l @ upper_m.T, full_matrices=False)
        root_R = s_R[:rank].sqrt()
        return LowRank(q_OR @ u_RR[:, :rank] * root_R, root_R[:, None] * (v_RR[:rank] @ q_IR.T))

    def to(self, dtype: torch.dtype) -> "LowRank":
        """The same factors in another dtype."""
        return LowRank(self.L_OR.to(dtype), self.M_RI.to(dtype))
