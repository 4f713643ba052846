"""OLoRA (Buyukakyuz, 2024, https://arxiv.org/abs/2406.01775): LoRA's factors start from W = Q R."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from stages.adapters.base import AdapterConfig, Factors, WeightReader

if TYPE_CHECKING:
    import torch


class Config(AdapterConfig):
    """OLoRA; the base becomes W less s B A, so training starts at the base model."""

    method: Literal["olora"]

    @property
    def subtracts_start(self) -> bool:
        """Always."""
        return True


def init(weight: WeightReader, config: Config, generator: torch.Generator) -> Factors:
    """B = the first `rank` columns of Q, A = the first `rank` rows of R, as PEFT takes them."""
    import torch

    # R's first rows need all of W, Q's first columns only W's: the R x R block reflectors of the rest are never formed.
    matrix_OI = weight.full()
    q_OR, _ = torch.linalg.qr(matrix_OI[:, : config.rank])
    return Factors(q_OR.T @ matrix_OI, None, q_OR)
