"""Which samples lie in one row: as few rows as they fit in, equally many for each process, equally full where possible.

A function of the samples and their lengths alone, so that a resumed run packs as the first one did. The samples of a
step are those of the unpacked run: packing is another layout of the same step.
"""

import heapq
from collections.abc import Iterator

import numpy as np

from stages._training.batches import deal


def pack(
    rows: np.ndarray, lengths: np.ndarray, pack_length: int, rank: int, num_processes: int
) -> Iterator[np.ndarray]:
    """The forward passes of one process, each the samples of one row of at most `pack_length` tokens.

    Each process gets equally many; one is empty only where there are fewer samples than passes.
    """
    ordered = rows[np.argsort(lengths[rows], kind="stable")[::-1]]
    fewest = first_fit(ordered, lengths, pack_length)
    num_rows = -(-len(fewest) // num_processes) * num_processes
    packed = even(ordered, lengths, num_rows)
    if any(lengths[row].sum() > pack_length for row in packed):
        packed = split(fewest, num_rows)
    packed.sort(key=lambda row: -int(lengths[row].sum()))
    yield from deal(packed, rank, num_processes)


def first_fit(ordered: np.ndarray, lengths: np.ndarray, pack_length: int) -> list[np.ndarray]:
    """First-fit decreasing: each sample, the longest first, into the first row that has room."""
    free: np.ndarray = np.full(len(ordered), pack_length)
    packed: list[list[int]] = [[] for _ in ordered]
    for sample in ordered:
        place = int(np.argmax(free >= lengths[sample]))
        free[place] -= lengths[sample]
        packed[place].append(sample)
    return [np.array(row) for row in packed if row]


def even(ordered: np.ndarray, lengths: np.ndarray, num_rows: int) -> list[np.ndarray]:
    """Each sample, the longest first, into the emptiest of so many rows, whatever they can hold."""
    emptiest = [(0, number) for number in range(num_rows)]
    packed: list[list[int]] = [[] for _ in range(num_rows)]
    for sample in ordered:
        filled, number = emptiest[0]
        packed[number].append(sample)
        heapq.heapreplace(emptiest, (filled + int(lengths[sample]), number))
    return [np.array(row, dtype=ordered.dtype) for row in packed]


def split(packed: list[np.ndarray], num_rows: int) -> list[np.ndarray]:
    """So many rows from fewer, by halving those of most samples."""
    packed = list(packed)
    while len(packed) < num_rows:
        largest = max(range(len(packed)), key=lambda number: len(packed[number]))
        packed.append(packed[largest][1::2])
        packed[largest] = packed[largest][::2]
    return packed
