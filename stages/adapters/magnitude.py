"""The lengths that DoRA trains (https://arxiv.org/abs/2402.09353, section 4): one for each output feature."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from stages.adapters.base import Factors, WeightReader

_BLOCK_ROWS = 1024


def row_lengths(weight: WeightReader, update: Factors | None = None, scale: float = 1.0) -> torch.Tensor:
    """[O]: the Euclidean length of each row of W, or of W + s B N A."""
    import torch

    from stages.adapters.algebra import folded

    lengths, start = [], 0
    right_RI, left_OR = folded(update) if update is not None else (None, None)
    for block_bI in weight.blocks(_BLOCK_ROWS):
        if right_RI is not None and left_OR is not None:
            block_bI = block_bI + scale * left_OR[start : start + len(block_bI)] @ right_RI
        lengths.append(torch.linalg.vector_norm(block_bI, dim=1))
        start += len(block_bI)
    return torch.cat(lengths)
