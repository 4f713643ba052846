"""Write a model folder's weights shard by shard, holding one tensor at a time."""

import json
from pathlib import Path

import torch

from stages._weights.index import INDEX_FILE, SINGLE_FILE
from stages._weights.streaming import StreamWriter

MAX_SHARD_BYTES = 2**31
HEADER_BYTES = 2**18
"""Room for the header of a shard: about 1,500 tensors; more begin another shard."""


class ShardWriter:
    """Writes tensors into shards of at most `max_shard_bytes`; `close` gives them the hub's names and index.

    Tensors of another dtype go into a shard of their own (`StreamWriter` says why).
    """

    def __init__(self, model_dir: Path, max_shard_bytes: int = MAX_SHARD_BYTES) -> None:
        self.model_dir = model_dir
        self.max_shard_bytes = max_shard_bytes
        self.num_tensors = 0
        self.num_parameters = 0
        self.num_bytes = 0
        self._shards: list[StreamWriter] = []
        self._open: dict[torch.dtype, StreamWriter] = {}

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Write one tensor."""
        size = tensor.numel() * tensor.element_size()
        self._shard(name, tensor.dtype, size).add(name, tensor)
        self.num_tensors += 1
        self.num_parameters += tensor.numel()
        self.num_bytes += size

    def close(self) -> None:
        """Complete the shards, then rename them and write the index."""
        for shard in self._open.values():
            shard.close()
        if len(self._shards) == 1:
            self._temporary(0).rename(self.model_dir / SINGLE_FILE)
            return
        weight_map: dict[str, str] = {}
        for number, shard in enumerate(self._shards):
            file = f"model-{number + 1:05d}-of-{len(self._shards):05d}.safetensors"
            self._temporary(number).rename(self.model_dir / file)
            weight_map |= dict.fromkeys(shard.names, file)
        index = {"metadata": {"total_size": self.num_bytes}, "weight_map": dict(sorted(weight_map.items()))}
        (self.model_dir / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n")

    def _shard(self, name: str, dtype: torch.dtype, num_bytes: int) -> StreamWriter:
        """The one of that dtype, or the next where that is full."""
        shard = self._open.get(dtype)
        if shard and shard.num_bytes + num_bytes <= self.max_shard_bytes and shard.has_room(name):
            return shard
        if shard:
            shard.close()
        self._open[dtype] = StreamWriter(self._temporary(len(self._shards)), dtype=dtype, room_bytes=HEADER_BYTES)
        self._shards.append(self._open[dtype])
        return self._open[dtype]

    def _temporary(self, number: int) -> Path:
        return self.model_dir / f".shard-{number}.safetensors"
