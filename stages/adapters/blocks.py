"""One pass over a weight too large to hold: a block of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from stages.adapters.base import WeightReader

_NUM_ROWS = 1024


def row_blocks(weight: WeightReader) -> Iterator[tuple[slice, torch.Tensor]]:
    """(which rows, these rows of W [b, I]), from the first to the last."""
    start = 0
    for block_bI in weight.blocks(_NUM_ROWS):
        yield slice(start, start + len(block_bI)), block_bI
        start += len(block_bI)
