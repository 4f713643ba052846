"""Readers of one weight matrix: from a safetensors file, reading only what is asked for, or from memory."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from stages._weights.index import StoredTensor

_RAW = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
TORCH_DTYPE = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


class FileMatrix:
    """A matrix in a safetensors file, mapped anew for each read so that pages do not add up in memory."""

    def __init__(self, stored: StoredTensor) -> None:
        self.stored = stored
        self.bytes_read = 0

    @property
    def shape(self) -> tuple[int, int]:
        """(O, I)"""
        num_out, num_in = self.stored.shape
        return num_out, num_in

    def rows(self, index: Sequence[int]) -> torch.Tensor:
        """W[index, :]"""
        return self._tensor(self._mapped()[_selector(index), :])

    def columns(self, index: Sequence[int]) -> torch.Tensor:
        """W[:, index]"""
        return self._tensor(self._mapped()[:, _selector(index)])

    def full(self) -> torch.Tensor:
        """W"""
        return self._tensor(self._mapped())

    def blocks(self, num_rows: int) -> Iterator[torch.Tensor]:
        """W in pieces of `num_rows` rows, one in memory at a time."""
        for start in range(0, self.shape[0], num_rows):
            yield self.rows(range(start, min(start + num_rows, self.shape[0])))

    def squared_norm(self) -> float:
        """||W||_F^2"""
        return sum(float(torch.linalg.vector_norm(block)) ** 2 for block in self.blocks(1024))

    def _mapped(self) -> np.memmap:
        raw = _RAW[self.stored.num_bytes // self.stored.num_elements]
        return np.memmap(self.stored.file, dtype=raw, mode="r", offset=self.stored.offset, shape=self.stored.shape)

    def _tensor(self, view: np.ndarray) -> torch.Tensor:
        self.bytes_read += view.nbytes
        return working_precision(torch.from_numpy(np.array(view, order="C")).view(TORCH_DTYPE[self.stored.dtype]))


class TensorMatrix:
    """A matrix in memory, with the same methods."""

    def __init__(self, weight_OI: torch.Tensor) -> None:
        self.weight_OI = weight_OI.detach()

    @property
    def shape(self) -> tuple[int, int]:
        """(O, I)"""
        num_out, num_in = self.weight_OI.shape
        return num_out, num_in

    def rows(self, index: Sequence[int]) -> torch.Tensor:
        """W[index, :]"""
        return _copied(self.weight_OI[list(index)])

    def columns(self, index: Sequence[int]) -> torch.Tensor:
        """W[:, index]"""
        return _copied(self.weight_OI[:, list(index)])

    def full(self) -> torch.Tensor:
        """W"""
        return _copied(self.weight_OI)

    def blocks(self, num_rows: int) -> Iterator[torch.Tensor]:
        """W in pieces of `num_rows` rows."""
        for block_bI in self.weight_OI.split(num_rows):
            yield _copied(block_bI)


def working_precision(tensor: torch.Tensor) -> torch.Tensor:
    """float32, or float64 if it is that already."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _copied(view: torch.Tensor) -> torch.Tensor:
    return working_precision(view.to("cpu", copy=True, memory_format=torch.contiguous_format))


def _selector(index: Sequence[int]) -> slice | list[int]:
    """A slice where the index is one: it copies without a gather."""
    return slice(index.start, index.stop, index.step) if isinstance(index, range) else list(index)
