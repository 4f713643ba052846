"""Readers of one weight matrix: from a safetensors file, reading only what is asked for, or from memory."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from pipeline.errors import UserError
from stages._weights.index import StoredTensor

TORCH_DTYPE = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
_RAW = {8: np.uint64, 4: np.uint32, 2: np.uint16}

WINDOW_BYTES = 2**26
"""Mapped at a time where a read touches every row: touched pages stay resident until they are unmapped."""


class FileMatrix:
    """A matrix in a safetensors file, mapped anew for each read so that pages do not add up in memory.

    Raises UserError for a dtype that is no plain floating point.
    """

    def __init__(self, stored: StoredTensor) -> None:
        if stored.dtype not in TORCH_DTYPE:
            raise UserError(
                f"{stored.file}: found a weight stored as {stored.dtype}, expected one of {', '.join(TORCH_DTYPE)}; "
                "start from the unquantised model"
            )
        self.stored = stored
        self.bytes_read = 0

    @property
    def shape(self) -> tuple[int, int]:
        """(O, I)"""
        num_out, num_in = self.stored.shape
        return num_out, num_in

    def rows(self, index: Sequence[int]) -> torch.Tensor:
        """W[index, :]"""
        return _copied(self._counted(self._mapped(range(self.shape[0]))[_selector(index)]))

    def columns(self, index: Sequence[int]) -> torch.Tensor:
        """W[:, index]"""
        dtype = TORCH_DTYPE[self.stored.dtype]
        columns_OK = torch.empty(self.shape[0], len(index), dtype=torch.promote_types(dtype, torch.float32))
        for window in self._windows():
            columns_OK[window.start : window.stop] = self._counted(self._mapped(window)[:, _selector(index)])
        return columns_OK

    def full(self) -> torch.Tensor:
        """W"""
        return self.columns(range(self.shape[1]))

    def blocks(self, num_rows: int) -> Iterator[torch.Tensor]:
        """W in pieces of `num_rows` rows, one in memory at a time."""
        for start in range(0, self.shape[0], num_rows):
            yield self.rows(range(start, min(start + num_rows, self.shape[0])))

    def _windows(self) -> Iterator[range]:
        num_out, row_bytes = self.shape[0], self.stored.num_bytes // self.shape[0]
        step = max(1, WINDOW_BYTES // row_bytes)
        for start in range(0, num_out, step):
            yield range(start, min(start + step, num_out))

    def _mapped(self, rows: range) -> torch.Tensor:
        """These rows as they are stored. Nothing is read before it is looked at."""
        num_out, num_in = self.shape
        dtype = TORCH_DTYPE[self.stored.dtype]
        offset = self.stored.offset + rows.start * (self.stored.num_bytes // num_out)
        # "c": private pages that may be written, since torch wants no others; nothing writes them
        raw = np.memmap(self.stored.file, _RAW[dtype.itemsize], mode="c", offset=offset, shape=(len(rows), num_in))
        return torch.from_numpy(raw).view(dtype)

    def _counted(self, view: torch.Tensor) -> torch.Tensor:
        self.bytes_read += view.numel() * view.element_size()
        return view


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
    dtype = torch.promote_types(view.dtype, torch.float32)
    return view.to("cpu", dtype, copy=True, memory_format=torch.contiguous_format)


def _selector(index: Sequence[int]) -> slice | list[int]:
    """A slice where the index is one: it copies without a gather."""
    return slice(index.start, index.stop, index.step) if isinstance(index, range) else list(index)
