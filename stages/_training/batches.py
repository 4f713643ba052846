"""Which samples each step, process and forward pass sees, and how they become tensors.

Shape suffixes: B = rows of a forward pass, T = tokens of its longest row.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.numpy import load_file

from pipeline.errors import UserError

_POOL = 50
"""Batches in a pool that is sorted by length: larger pads less, smaller is more random."""


class Batch(NamedTuple):
    """Right-padded rows of one sample each, or one row of several samples.

    Causal attention never looks right, so padding needs no mask.
    """

    input_ids: torch.Tensor
    """[B, T] int64; padding is token 0"""
    is_target: torch.Tensor
    """[B, T] bool: the token is to be predicted (from those before it)"""
    sample_lengths: list[int] | None = None
    """of the samples that lie in the one row of a packed batch"""


class TokenFile:
    """The samples of one split, as the tokenize stage wrote them."""

    def __init__(self, file: Path) -> None:
        tensors = load_file(file)
        self.input_ids = tensors["input_ids"]
        self.loss_mask = tensors["loss_mask"]
        self.offsets = tensors["offsets"]
        self.lengths = np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.lengths)

    def num_targets(self, rows: np.ndarray) -> int:
        """Tokens to be predicted in these rows; a row's first token has nothing before it and is none."""
        return sum(int(self.loss_mask[self.offsets[row] + 1 : self.offsets[row + 1]].sum()) for row in rows)

    def batch(self, rows: np.ndarray) -> Batch:
        """Rows as one padded batch."""
        width = int(self.lengths[rows].max())
        input_ids: np.ndarray = np.zeros((len(rows), width), np.int64)
        is_target: np.ndarray = np.zeros((len(rows), width), bool)
        for number, row in enumerate(rows):
            span = slice(self.offsets[row], self.offsets[row + 1])
            input_ids[number, : self.lengths[row]] = self.input_ids[span]
            is_target[number, : self.lengths[row]] = self.loss_mask[span]
        is_target[:, 0] = False
        return Batch(torch.from_numpy(input_ids), torch.from_numpy(is_target))

    def packed(self, rows: np.ndarray) -> Batch:
        """Rows as one, without padding."""
        spans = [slice(self.offsets[row], self.offsets[row + 1]) for row in rows]
        input_ids = np.concatenate([self.input_ids[span] for span in spans]).astype(np.int64)
        is_target = np.concatenate([self.loss_mask[span] for span in spans]).astype(bool)
        lengths = self.lengths[rows]
        is_target[lengths.cumsum() - lengths] = False
        return Batch(torch.from_numpy(input_ids)[None], torch.from_numpy(is_target)[None], lengths.tolist())


class Order:
    """The global batch of every step, a function of the seed alone: any step can be asked for at any time."""

    def __init__(self, lengths: np.ndarray, batch_size: int, seed: int, group_by_length: bool) -> None:
        self.steps_per_epoch = len(lengths) // batch_size
        if self.steps_per_epoch == 0:
            raise UserError(
                f"train.global_batch_size: got {batch_size}, must be <= the {len(lengths)} training samples"
            )
        self._lengths = lengths
        self._batch_size = batch_size
        self._seed = seed
        self._group_by_length = group_by_length
        self._epoch = 0
        self._batches = self._shuffled(0)

    def rows(self, step: int) -> np.ndarray:
        """The samples of step 0, 1, ...; what is left over at the end of an epoch is dropped."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._batches = epoch, self._shuffled(epoch)
        return self._batches[position]

    def _shuffled(self, epoch: int) -> np.ndarray:
        random = np.random.default_rng((self._seed, epoch))
        rows = random.permutation(len(self._lengths))
        if self._group_by_length:
            rows = self._grouped(rows)
        batches = rows[: self.steps_per_epoch * self._batch_size].reshape(-1, self._batch_size)
        return random.permutation(batches) if self._group_by_length else batches

    def _grouped(self, rows: np.ndarray) -> np.ndarray:
        size = _POOL * self._batch_size
        pools = [rows[start : start + size] for start in range(0, len(rows), size)]
        return np.concatenate([pool[np.argsort(self._lengths[pool], kind="stable")[::-1]] for pool in pools])


def share(
    rows: np.ndarray, lengths: np.ndarray, per_device_batch_size: int, rank: int, num_processes: int
) -> Iterator[np.ndarray]:
    """The forward passes of one process: rows sorted by length and dealt out, so that all do equal work with little
    padding. Each process gets equally many; where rows run out, a pass is empty.
    """
    ordered = rows[np.argsort(lengths[rows], kind="stable")[::-1]]
    passes = [ordered[start : start + per_device_batch_size] for start in range(0, len(rows), per_device_batch_size)]
    passes += [rows[:0]] * (-len(passes) % num_processes)
    yield from deal(passes, rank, num_processes)


def deal(passes: list[np.ndarray], rank: int, num_processes: int) -> Iterator[np.ndarray]:
    """The passes of one process, of a multiple of `num_processes` from the largest to the smallest.

    To and fro: who had the longest of a round has the shortest of the next.
    """
    for number in range(len(passes) // num_processes):
        place = rank if number % 2 == 0 else num_processes - 1 - rank
        yield passes[number * num_processes + place]
