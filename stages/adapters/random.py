"""Random starts for factors that see no weight."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Start = Literal["kaiming", "gaussian"]


def random_factor(start: Start, num_out: int, num_in: int, rank: int, generator: torch.Generator) -> torch.Tensor:
    """[num_out, num_in] in float32. `kaiming`: uniform in +-1/sqrt(num_in), Kaiming's rule with a = sqrt(5), as in
    PyTorch's linear layer. `gaussian`: normal with deviation 1 / rank, as PEFT's `init_lora_weights="gaussian"`.
    """
    import torch

    factor = torch.empty(num_out, num_in)
    if start == "gaussian":
        return torch.nn.init.normal_(factor, std=1 / rank, generator=generator)
    return torch.nn.init.kaiming_uniform_(factor, a=math.sqrt(5), generator=generator)
