"""PiSSA (Meng et al., 2024, https://arxiv.org/abs/2404.02948): LoRA's factors start as the principal part of W."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from stages.adapters.base import AdapterConfig, Factors, WeightReader
from stages.adapters.svd import Svd, exact_svd, fast_svd

if TYPE_CHECKING:
    import torch


class Config(AdapterConfig):
    """PiSSA; the base becomes W less its principal part, so training starts at the base model."""

    method: Literal["pissa"]
    svd: Literal["exact", "fast"] = "exact"
    num_iterations: Annotated[int, Field(ge=0)] = 4
    """Of the subspace iteration of the `fast` SVD (PEFT's `pissa_niter_4`)."""

    @property
    def subtracts_start(self) -> bool:
        """Always."""
        return True

    @model_validator(mode="after")
    def _options_go_together(self) -> Self:
        if self.svd == "exact" and self.num_iterations != type(self).model_fields["num_iterations"].default:
            raise ValueError("num_iterations: found with svd: exact, which iterates nothing; use svd: fast")
        return self


def init(weight: WeightReader, config: Config, generator: torch.Generator) -> Factors:
    """B A = U S V / s for the `rank` largest singular values, their roots shared between the factors."""
    matrix_OI = weight.full()
    svd = (
        exact_svd(matrix_OI)
        if config.svd == "exact"
        else fast_svd(matrix_OI, config.rank, config.num_iterations, generator)
    )
    return split(Svd(svd.U_OR[:, : config.rank], svd.S_R[: config.rank], svd.V_RI[: config.rank]), config.scaling)


def split(svd: Svd, scaling: float) -> Factors:
    """B = U sqrt(S / s), A = sqrt(S / s) V."""
    root_R = (svd.S_R / scaling).sqrt()
    return Factors(root_R[:, None] * svd.V_RI, None, svd.U_OR * root_R)
