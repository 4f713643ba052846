"""Read weights that DeepSpeed's ZeRO stage 3 has divided among processes, sending only the numbers that are asked for.

Stage 3 lays a parameter out flat and gives process k of its group the k-th of equal pieces, padded at the end
(`ds_tensor`, `ds_shape` and `ds_process_group` in deepspeed.runtime.zero.partition_parameters).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import distributed

from pipeline.errors import UserError
from stages._weights.matrix import TensorMatrix, working_precision


class Processes:
    """The processes that share a weight, and how they send each other tensors: as bytes, so that every dtype, the sign
    of a zero and the payload of a NaN arrive as they are.
    """

    def __init__(self, group: Any, device: torch.device) -> None:
        self.group = group
        self.device = device
        """where this group's backend takes tensors from"""
        alone = group is None
        self.rank = 0 if alone else distributed.get_rank(group)
        self.size = 1 if alone else distributed.get_world_size(group)

    def broadcast(self, tensor: torch.Tensor, source: int) -> None:
        """Overwrite a contiguous tensor by that of process `source`."""
        if self.size == 1:
            return
        there = tensor.to(self.device)
        distributed.broadcast(_bytes(there), group=self.group, group_src=source)
        if there is not tensor:
            tensor.copy_(there)

    def gather(self, tensor: torch.Tensor, target: int) -> list[torch.Tensor] | None:
        """Everyone's tensor, all of one length, at process `target`; None at the others."""
        own = tensor.to(self.device)
        if self.size == 1:
            return [own]
        all_of_them = [torch.empty_like(own) for _ in range(self.size)] if self.rank == target else None
        pieces = [_bytes(piece) for piece in all_of_them] if all_of_them else None
        distributed.gather(_bytes(own), pieces, group=self.group, group_dst=target)
        return all_of_them


class PartitionedMatrix:
    """A matrix [O, I] in pieces.

    Reading is collective: every process of the weight's group makes the same calls and gets the same numbers. Raises
    UserError for a weight that was moved to NVMe or quantised.
    """

    def __init__(self, weight: torch.nn.Parameter) -> None:
        _require_readable(weight)
        self.shape: tuple[int, int] = tuple(weight.ds_shape)
        self.processes = processes_of(weight)
        self.bytes_received = 0
        """from other processes, by this one"""
        self._piece = weight.ds_tensor.detach()

    def rows(self, index: Sequence[int]) -> torch.Tensor:
        """W[index, :]"""
        num_in = self.shape[1]
        ascending, places = torch.tensor(list(index)).sort()
        return self._numbers(ascending[:, None] * num_in + torch.arange(num_in))[places.argsort()]

    def columns(self, index: Sequence[int]) -> torch.Tensor:
        """W[:, index]"""
        num_out, num_in = self.shape
        ascending, places = torch.tensor(list(index)).sort()
        found_OR = self._numbers(torch.arange(num_out)[:, None] * num_in + ascending)
        return found_OR[:, places.argsort()].contiguous()

    def full(self) -> torch.Tensor:
        """W, at every process."""
        return self._range(0, self.shape[0])

    def blocks(self, num_rows: int) -> Iterator[torch.Tensor]:
        """W in pieces of `num_rows` rows, one in memory at a time."""
        for start in range(0, self.shape[0], num_rows):
            yield self._range(start, min(start + num_rows, self.shape[0]))

    def at(self, owner: int) -> torch.Tensor | None:
        """W at process `owner` of the group, None at the others."""
        pieces = self.processes.gather(self._piece, owner)
        if pieces is None:
            return None
        self.bytes_received += (len(pieces) - 1) * _num_bytes(self._piece)
        num_out, num_in = self.shape
        return working_precision(torch.cat(pieces)[: num_out * num_in].view(self.shape).cpu())

    def _numbers(self, positions: torch.Tensor) -> torch.Tensor:
        """The numbers at these ascending positions of the flat matrix, each sent once by the process that has it."""
        flat, length = positions.flatten(), len(self._piece)
        cuts = torch.searchsorted(flat, torch.arange(self.processes.size + 1) * length).tolist()
        parts = [
            self._sent(owner, flat[begin:end] - owner * length).cpu()
            for owner, (begin, end) in enumerate(pairwise(cuts))
            if begin < end
        ]
        return working_precision(torch.cat(parts).view(positions.shape))

    def _range(self, start: int, stop: int) -> torch.Tensor:
        """Rows start to stop, each piece sent once."""
        begin, end, length = start * self.shape[1], stop * self.shape[1], len(self._piece)
        parts = []
        for owner in range(begin // length, (end - 1) // length + 1):
            first, last = max(begin, owner * length), min(end, (owner + 1) * length)
            parts.append(self._sent(owner, slice(first - owner * length, last - owner * length)).cpu())
        return working_precision(torch.cat(parts).view(stop - start, self.shape[1]))

    def _sent(self, owner: int, where: torch.Tensor | slice) -> torch.Tensor:
        """What process `owner` has at `where` in its piece, at all processes."""
        if owner == self.processes.rank:
            index = where if isinstance(where, slice) else where.to(self._piece.device)
            numbers = self._piece[index].to(self.processes.device, copy=True)
        else:
            count = where.stop - where.start if isinstance(where, slice) else len(where)
            numbers = torch.empty(count, dtype=self._piece.dtype, device=self.processes.device)
            self.bytes_received += _num_bytes(numbers)
        self.processes.broadcast(numbers, owner)
        return numbers


def reader(weight: torch.nn.Parameter) -> PartitionedMatrix | TensorMatrix:
    """The reader of a weight of a model in memory."""
    return PartitionedMatrix(weight) if is_partitioned(weight) else TensorMatrix(weight)


def is_partitioned(weight: torch.Tensor) -> bool:
    """Whether ZeRO stage 3 has taken this parameter."""
    return hasattr(weight, "ds_tensor")


def processes_of(weight: torch.Tensor) -> Processes:
    """The processes over which a weight is divided; for a whole one, all that train together."""
    if is_partitioned(weight):
        from deepspeed.accelerator import get_accelerator

        return Processes(weight.ds_process_group, torch.device(get_accelerator().current_device_name()))
    if not (distributed.is_available() and distributed.is_initialized()):
        return Processes(None, torch.device("cpu"))
    on_gpu = distributed.get_backend() == "nccl"
    return Processes(distributed.group.WORLD, torch.device("cuda" if on_gpu else "cpu"))


@contextlib.contextmanager
def writable(weight: torch.nn.Parameter) -> Iterator[None]:
    """Inside, the weight is whole at every process; what the group's first process leaves in it is kept."""
    if not is_partitioned(weight):
        yield
        return
    import deepspeed

    first = distributed.get_global_rank(weight.ds_process_group, 0)
    with deepspeed.zero.GatheredParameters([weight], modifier_rank=first):
        yield


def _require_readable(weight: torch.nn.Parameter) -> None:
    name = f"a weight {list(weight.ds_shape)} under ZeRO stage 3"
    if hasattr(weight.ds_tensor, "ds_quant_scale"):
        raise UserError(f"{name}: found quantised, expected float; turn zero_quantized_nontrainable_weights off")
    if weight.ds_tensor.status.name != "AVAILABLE":
        raise UserError(f"{name}: found on NVMe, expected in memory; use offload_param to cpu, or start from files")
    if len(weight.ds_shape) != 2:
        raise UserError(f"{name}: expected a matrix; leave it out of the targets")


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.view(torch.uint8)


def _num_bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()
