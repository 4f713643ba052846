"""Nystrom starts: r rows, r columns and a core between them as the three factors (NLoRA paper, section 3, eq. 6)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from stages.adapters.algebra import update_norm
from stages.adapters.base import AdapterConfig, Factors, WeightReader
from stages.adapters.blocks import row_blocks
from stages.adapters.sampling import Sampling, choose

if TYPE_CHECKING:
    import torch

_ROUNDING_SHARE = 0.01


class NystromConfig(AdapterConfig):
    """What the paper leaves open, by name. The paper's own code: core sample, residual keep, sampling leading."""

    core: Literal["sample", "pinv", "least_squares"] = "sample"
    """How N starts. `sample`: the crossing block A_W itself. `pinv`: its pseudo-inverse (eq. 6). `least_squares`:
    B^+ W A^+, which minimises ||W - B N A|| over N; it reads the whole weight once.
    """
    pinv_tolerance: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Singular values of A_W below this share of the largest are cut by `pinv`; by default only what is zero to
    machine precision.
    """
    residual: Literal["keep", "subtract"] = "subtract"
    """The model starts at W + s B N A (`keep`), or the base is reduced so that it starts at W (`subtract`). A kept
    start breaks small models: measured in `benchmarks/starts.py`.
    """
    sampling: Sampling = "leading"
    """Which rows and columns: the first r, or r drawn at random, see `stages.adapters.sampling`."""
    scale: Annotated[float, Field(gt=0)] | None = None
    """Multiply N so that ||s B N A|| is this share of ||W||; by default N is left as it is."""

    PEFT_INIT: ClassVar[bool | str] = "n_lora"

    @property
    def subtracts_start(self) -> bool:
        """True for `residual: subtract`."""
        return self.residual == "subtract"

    @model_validator(mode="after")
    def _options_go_together(self) -> Self:
        if self.pinv_tolerance is not None and self.core != "pinv":
            raise ValueError(f"pinv_tolerance: found with core: {self.core}, which inverts nothing; leave it out")
        if self.core == "least_squares" and self.residual == "keep" and self.scale is None:
            raise ValueError(
                "core: least_squares with residual: keep adds the best approximation of W to W itself; "
                "use residual: subtract, or set scale"
            )
        if getattr(self, "order", "BNA") != "BNA":
            self._refuse_what_needs_a_core_between()
        return self

    def _refuse_what_needs_a_core_between(self) -> None:
        if self.core != "sample":
            raise ValueError(f"core: {self.core} is a core between A and B, expected with order: BNA")
        if self.scale is not None:
            raise ValueError(
                "scale: N does not reach the whole update in order: BAN, only the first R inputs; expected with "
                "order: BNA"
            )


def nystrom(weight: WeightReader, config: NystromConfig, generator: torch.Generator) -> Factors:
    """A = r rows, B = r columns, N by `core` and `scale`. In float32, or float64 if the weight is stored so."""
    rows, columns = choose(weight, config.rank, config.sampling, generator)
    rows_RI, columns_OR = weight.rows(rows), weight.columns(columns)
    crossing_RR = rows_RI[:, list(columns)]
    if config.core == "sample":
        core_RR = crossing_RR
    elif config.core == "pinv":
        core_RR = _pinv(crossing_RR, config.pinv_tolerance)
    else:
        core_RR = _least_squares(weight, rows_RI, columns_OR)
    factors = Factors(rows_RI, core_RR, columns_OR, order=getattr(config, "order", "BNA"))
    return factors if config.scale is None else _scaled(factors, weight, config)


def _pinv(crossing_RR: torch.Tensor, tolerance: float | None) -> torch.Tensor:
    import torch

    inverse_RR = torch.linalg.pinv(crossing_RR.double(), rtol=tolerance)
    return inverse_RR.to(crossing_RR.dtype)


def _least_squares(weight: WeightReader, rows_RI: torch.Tensor, columns_OR: torch.Tensor) -> torch.Tensor:
    """B^+ W A^+ from the singular vectors of B and A, between which W is a sum of R x R terms.

    The one pass over W is in its working precision, everything of size R x R in float64. A term for which N would
    have to be so large that rounding N loses more than `_ROUNDING_SHARE` of it is left out.
    """
    import torch

    q_OR, upper_b_RR = torch.linalg.qr(columns_OR)
    q_IR, upper_a_RR = torch.linalg.qr(rows_RI.T)
    u_b_RR, s_b_R, v_b_RR = torch.linalg.svd(upper_b_RR.double())
    u_a_RR, s_a_R, v_a_RR = torch.linalg.svd(upper_a_RR.double())
    terms_RR = u_b_RR.T @ (_projected(q_OR, weight) @ q_IR).double() @ u_a_RR
    sizes_RR = s_b_R[:, None] * s_a_R
    kept_RR = sizes_RR > sizes_RR[0, 0] * torch.finfo(rows_RI.dtype).eps / _ROUNDING_SHARE
    core_RR = torch.where(kept_RR, terms_RR / sizes_RR, 0.0)
    return (v_b_RR.T @ core_RR @ v_a_RR).to(rows_RI.dtype)


def _projected(basis_OR: torch.Tensor, weight: WeightReader) -> torch.Tensor:
    """Q' W [R, I], W read once."""
    import torch

    projected_RI = torch.zeros(basis_OR.shape[1], weight.shape[1], dtype=basis_OR.dtype)
    for rows, block_bI in row_blocks(weight):
        projected_RI += basis_OR[rows].T @ block_bI
    return projected_RI


def _scaled(factors: Factors, weight: WeightReader, config: NystromConfig) -> Factors:
    """N multiplied by what makes the initial update the wanted share of the weight; a zero update stays."""
    import torch

    assert config.scale is not None
    assert factors.N_RR is not None
    norm = sum(float(torch.linalg.vector_norm(block)) ** 2 for _, block in row_blocks(weight)) ** 0.5
    update = update_norm(factors, config.scaling)
    return factors._replace(N_RR=factors.N_RR * (config.scale * norm / update)) if update else factors
