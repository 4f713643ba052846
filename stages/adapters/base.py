"""What all adapter methods share: their common options, the factors they yield, the reader they start from.

Shape suffixes here and in the methods: O = out_features, I = in_features, R = rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, NamedTuple, Protocol

from pydantic import Field

from pipeline.strict import StrictModel

if TYPE_CHECKING:
    import torch

Factor = Literal["A", "N", "B"]


class AdapterConfig(StrictModel):
    """Options that every method has."""

    rank: Annotated[int, Field(ge=1)]
    alpha: Annotated[float, Field(gt=0)] | None = None
    """The update is scaled by alpha / rank; by default alpha = rank, as in the paper (section 4)."""
    targets: str | Annotated[list[str], Field(min_length=1)] = "all-linear"
    """`all-linear`, a list of module names (a suffix such as q_proj is enough), or a regex of the whole module name."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0

    TRAINABLE: ClassVar[tuple[Factor, ...]] = ("A", "B")
    PEFT_INIT: ClassVar[bool | str] = True
    """The `init_lora_weights` of the PEFT configuration, by which a loader knows the form of the adapter."""

    @property
    def scale(self) -> float:
        """The s of W x + s B N A x."""
        return 1.0 if self.alpha is None else self.alpha / self.rank

    def num_trainable(self, num_out: int, num_in: int) -> int:
        """Trained numbers for one matrix [O, I]."""
        sizes = {"A": self.rank * num_in, "N": self.rank**2, "B": num_out * self.rank}
        return sum(sizes[factor] for factor in self.TRAINABLE)

    @property
    def subtracts_start(self) -> bool:
        """Whether the base weight is reduced by the initial update, so that training starts at the base model."""
        return False


class Factors(NamedTuple):
    """The start of one matrix's adapter, in float32 or better. N is None for two-factor methods."""

    A_RI: torch.Tensor
    N_RR: torch.Tensor | None
    B_OR: torch.Tensor


class WeightReader(Protocol):
    """One weight matrix W [O, I] that may be far larger than what is asked of it.

    Everything is returned as a fresh tensor on the CPU in float32, or in float64 if the weight is stored so.
    """

    @property
    def shape(self) -> tuple[int, int]:
        """(O, I)"""

    def rows(self, index: Sequence[int]) -> torch.Tensor:
        """W[index, :], [len(index), I]"""

    def columns(self, index: Sequence[int]) -> torch.Tensor:
        """W[:, index], [O, len(index)]"""

    def full(self) -> torch.Tensor:
        """W, [O, I]"""
