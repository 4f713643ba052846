"""What all methods share: their common options, the factors they yield, the reader they start from.

Shape suffixes here and in the methods: O = out_features, I = in_features, R = rank.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple, Protocol, Self

from pydantic import Field

from pipeline.strict import StrictModel

if TYPE_CHECKING:
    import torch

Factor = Literal["A", "N", "B"]
Order = Literal["BNA", "BAN"]
Rank = Annotated[int, Field(ge=1)]
Alpha = Annotated[float, Field(gt=0)]


class MethodConfig(StrictModel):
    """What every method has, full fine-tuning too, which adds no factors."""

    method: str

    NEEDS_GRADIENT: ClassVar[bool] = False
    """Whether `init` asks its reader for the loss's gradient, which takes a model and data."""

    NEEDS_ADAMW: ClassVar[bool] = False
    """Whether its part in training works on AdamW's own states."""

    @property
    def subtracts_start(self) -> bool:
        """Whether the base weight is reduced by the initial update, so that training starts at the base model."""
        return False

    def rate_factor(self, factor: Factor) -> float:
        """What the learning rate is multiplied by for one kind of factor."""
        return 1.0


class AdapterConfig(MethodConfig):
    """Options that every adapter method has."""

    rank: Rank
    alpha: Alpha | None = None
    """The update is scaled by alpha / rank; by default alpha = rank, as in the paper (section 4)."""
    targets: str | Annotated[list[str], Field(min_length=1)] = "all-linear"
    """`all-linear`, a list of module names (a suffix such as q_proj is enough), or a regex of the whole module name."""
    rank_pattern: dict[str, Rank] = {}
    """Other ranks for some modules: name, suffix or regex of the end of a module's name -> rank (PEFT's rules)."""
    alpha_pattern: dict[str, Alpha] = {}
    """Other alphas, likewise."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0

    TRAINABLE: ClassVar[tuple[Factor, ...]] = ("A", "B")
    PEFT_INIT: ClassVar[bool | str] = True
    """The `init_lora_weights` of the PEFT configuration, by which a loader knows the form of the adapter."""

    @property
    def scaling(self) -> float:
        """The s of W x + s B N A x."""
        return 1.0 if self.alpha is None else self.alpha / self.rank

    @property
    def num_directions(self) -> int:
        """How many independent rows or columns `init` takes of a matrix: none of its sides may be smaller."""
        return self.rank

    @property
    def has_magnitude(self) -> bool:
        """Whether each row of the adapted weight is rescaled to a trained length (DoRA)."""
        return False

    def peft_options(self) -> dict[str, Any]:
        """What the method sets in PEFT's configuration beyond rank, alpha, dropout and targets."""
        return {"init_lora_weights": SUBTRACTED if self.subtracts_start and self.PEFT_INIT is True else self.PEFT_INIT}

    def for_module(self, module: str) -> Self:
        """This configuration with the rank and alpha that hold for one module."""
        rank = _matching(self.rank_pattern, module) or self.rank
        alpha = _matching(self.alpha_pattern, module) or self.alpha
        return self.model_copy(update={"rank": rank, "alpha": alpha, "rank_pattern": {}, "alpha_pattern": {}})

    def num_trainable(self, num_out: int, num_in: int) -> int:
        """Trained numbers for one matrix [O, I]."""
        sizes = {"A": self.rank * num_in, "N": self.rank**2, "B": num_out * self.rank}
        return sum(sizes[factor] for factor in self.TRAINABLE) + (num_out if self.has_magnitude else 0)


SUBTRACTED = "start_subtracted"
"""`init_lora_weights` of a two-factor adapter that belongs to a base reduced by its start.

PEFT without our layer refuses it, instead of adding the adapter to a base it does not belong to.
"""


class Factors(NamedTuple):
    """One matrix's adapter, in float32 or better: s B N A, with N = identity where it is None."""

    A_RI: torch.Tensor
    N_RR: torch.Tensor | None
    """[R, R]; or its diagonal, [R]"""
    B_OR: torch.Tensor
    magnitude_O: torch.Tensor | None = None  # noqa: N815 - a shape suffix
    """DoRA: the length of each row of the adapted weight"""
    order: Order = "BNA"


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

    def blocks(self, num_rows: int) -> Iterator[torch.Tensor]:
        """W in pieces of `num_rows` rows, one in memory at a time."""


class GradientReader(WeightReader, Protocol):
    """What a method that NEEDS_GRADIENT starts from."""

    def gradient(self) -> torch.Tensor:
        """dL/dW [O, I], averaged over the batches it was estimated on."""


def total_trainable(adapter: AdapterConfig, shapes: Mapping[str, tuple[int, int]], modules: Iterable[str]) -> int:
    """Trained numbers of an adapter on the modules named, of these shapes."""
    return sum(adapter.for_module(module).num_trainable(*shapes[module]) for module in modules)


def matches(key: str, module: str) -> bool:
    """Whether a key of `rank_pattern` or `alpha_pattern` means a module: the end of its name, as PEFT looks it up."""
    return re.match(rf"(.*\.)?({key})$", module) is not None


def _matching(pattern: Mapping[str, Any], module: str) -> Any:
    """The value of the first key that means the module; None if none does."""
    return next((value for key, value in pattern.items() if matches(key, module)), None)
