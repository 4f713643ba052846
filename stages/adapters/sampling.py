"""Which rows and columns of a weight a Nystrom start takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from stages.adapters.blocks import row_blocks
from stages.adapters.svd import fast_svd

if TYPE_CHECKING:
    import torch

    from stages.adapters.base import WeightReader

Sampling = Literal["leading", "uniform", "norm", "leverage"]
_ITERATIONS = 2
"""Of the subspace iteration behind leverage scores: they only have to rank rows, not to be exact."""


def choose(
    weight: WeightReader, rank: int, sampling: Sampling, generator: torch.Generator
) -> tuple[Sequence[int], Sequence[int]]:
    """(R rows, R columns), ascending; without replacement, with chances in proportion to

    `uniform`: one; `norm`: squared length (Drineas et al., 2006, https://doi.org/10.1137/S0097539704442702);
    `leverage`: the squared length within the R leading singular vectors (Mahoney and Drineas, 2009,
    https://arxiv.org/abs/0803.0476). `leading` is not random: the first R of each.
    """
    import torch

    if sampling == "leading":
        return range(rank), range(rank)
    num_out, num_in = weight.shape
    if sampling == "uniform":
        scores = torch.ones(num_out), torch.ones(num_in)
    else:
        scores = _squared_lengths(weight) if sampling == "norm" else _leverage(weight, rank, generator)
    rows, columns = (_draw(each, rank, generator) for each in scores)
    return rows, columns


def _draw(scores: torch.Tensor, rank: int, generator: torch.Generator) -> list[int]:
    import torch

    chances = scores.double().clamp_min(torch.finfo(torch.float32).tiny)  # a weight with zero rows has R rows too
    return sorted(torch.multinomial(chances, rank, replacement=False, generator=generator).tolist())


def _squared_lengths(weight: WeightReader) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    of_rows, of_columns = [], torch.zeros(weight.shape[1])
    for _, block_bI in row_blocks(weight):
        squared = block_bI.square()
        of_rows.append(squared.sum(dim=1))
        of_columns = of_columns + squared.sum(dim=0)
    return torch.cat(of_rows), of_columns


def _leverage(weight: WeightReader, rank: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    svd = fast_svd(weight.full(), rank, _ITERATIONS, generator)
    return svd.U_OR.square().sum(dim=1), svd.V_RI.square().sum(dim=0)
