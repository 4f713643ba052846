"""What SLoRA and NLoRA share: three trained factors, and what may be combined with them (NLoRA paper, section 6)."""

from __future__ import annotations

from typing import Any, ClassVar

from stages.adapters.base import AdapterConfig, Factor, Order


class StructuredConfig(AdapterConfig):
    """Options of methods that train A, N and B."""

    order: Order = "BNA"
    """Where N acts. `BNA`: on the R numbers between A and B (eq. 7), the only place where an R x R core fits as it is.
    `BAN`: on the first R input features, before A.
    """
    dora: bool = False
    """Train a length for each row of the adapted weight as well, as DoRA does."""

    TRAINABLE: ClassVar[tuple[Factor, ...]] = ("A", "N", "B")

    @property
    def has_magnitude(self) -> bool:
        """With `dora`."""
        return self.dora

    def peft_options(self) -> dict[str, Any]:
        """The core's place, and PEFT's own switch for DoRA."""
        return {**super().peft_options(), "core_order": self.order, "use_dora": self.dora}
