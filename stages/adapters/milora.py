"""MiLoRA (Wang et al., 2024, https://arxiv.org/abs/2406.09044): LoRA's factors start as the minor part of W."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from stages.adapters.base import AdapterConfig, Factors, WeightReader
from stages.adapters.pissa import split
from stages.adapters.svd import Svd, exact_svd

if TYPE_CHECKING:
    import torch


class Config(AdapterConfig):
    """MiLoRA; the base keeps W's principal part, so training starts at the base model."""

    method: Literal["milora"]

    @property
    def subtracts_start(self) -> bool:
        """Always."""
        return True


def init(weight: WeightReader, config: Config, generator: torch.Generator) -> Factors:
    """B A = U S V / s for the `rank` smallest singular values, their roots shared between the factors."""
    svd = exact_svd(weight.full())
    last = slice(-config.rank, None)
    return split(Svd(svd.U_OR[:, last], svd.S_R[last], svd.V_RI[last]), config.scaling)
