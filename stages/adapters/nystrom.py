"""Nystrom starts: r rows, r columns and their crossing as the three factors (NLoRA paper, section 3, eq. 6)."""

from __future__ import annotations

from typing import ClassVar, Literal

from stages.adapters.base import AdapterConfig, Factor, Factors, WeightReader


class NystromConfig(AdapterConfig):
    """What the paper leaves open, by name; the defaults are what its own code does."""

    core: Literal["sample", "pinv"] = "sample"
    """N starts as the crossing block A_W itself (`sample`) or as its pseudo-inverse (`pinv`, eq. 6)."""
    residual: Literal["keep", "subtract"] = "keep"
    """The model starts at W + s B N A (`keep`), or the base is reduced so that it starts at W (`subtract`)."""
    sampling: Literal["leading"] = "leading"
    """Which rows and columns: the first r."""

    TRAINABLE: ClassVar[tuple[Factor, ...]] = ("A", "N", "B")
    PEFT_INIT: ClassVar[bool | str] = "n_lora"

    @property
    def subtracts_start(self) -> bool:
        """True for `residual: subtract`."""
        return self.residual == "subtract"


def nystrom(weight: WeightReader, config: NystromConfig) -> Factors:
    """A = r rows, B = r columns, N = their crossing block or its pseudo-inverse."""
    import torch

    leading = range(config.rank)
    rows_RI, columns_OR = weight.rows(leading), weight.columns(leading)
    crossing_RR = rows_RI[:, : config.rank].clone()
    core_RR = crossing_RR if config.core == "sample" else torch.linalg.pinv(crossing_RR.double()).to(rows_RI.dtype)
    return Factors(rows_RI, core_RR, columns_OR)
