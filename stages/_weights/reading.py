"""Read one tensor of any shape, whole. For what is to be read in pieces there is `stages._weights.matrix`."""

from pathlib import Path

import torch
from safetensors import safe_open


def read_tensor(file: Path, name: str) -> torch.Tensor:
    """The tensor of that name in a safetensors file, in the dtype of the file."""
    with safe_open(file, framework="pt") as opened:
        return opened.get_tensor(name)
