"""The lengths that DoRA trains (https://arxiv.org/abs/2402.09353, section 4): one for each output feature."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from stages.adapters.base import Factors, WeightReader


def row_lengths(weight: WeightReader, update: Factors | None = None, scale: float = 1.0) -> torch.Tensor:
    """[O]: the Euclidean length of each row of W, or of W + s B N A. Raises StepFailed where one is zero."""
    import torch

    from pipeline.errors import StepFailed
    from stages.adapters.algebra import folded
    from stages.adapters.blocks import row_blocks

    lengths = []
    right_RI, left_OR = folded(update) if update is not None else (None, None)
    for rows, block_bI in row_blocks(weight):
        if right_RI is not None and left_OR is not None:
            block_bI = block_bI + scale * left_OR[rows] @ right_RI
        lengths.append(torch.linalg.vector_norm(block_bI, dim=1))
    lengths_O = torch.cat(lengths)
    if not lengths_O.all():
        raise StepFailed(
            f"adapter: found {int((lengths_O == 0).sum())} rows of zeros in a weight of {weight.shape[0]} x "
            f"{weight.shape[1]}, and DoRA divides by their lengths; leave its module out of targets, or train "
            "without DoRA"
        )
    return lengths_O
