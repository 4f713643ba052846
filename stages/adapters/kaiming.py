"""Random starts for factors that see no weight."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def kaiming_uniform(num_out: int, num_in: int, generator: torch.Generator) -> torch.Tensor:
    """[num_out, num_in] uniform in +-1/sqrt(num_in): Kaiming's rule with a = sqrt(5), as in PyTorch's linear layer."""
    import torch

    factor = torch.empty(num_out, num_in)
    return torch.nn.init.kaiming_uniform_(factor, a=math.sqrt(5), generator=generator)
