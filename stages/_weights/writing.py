"""Write a model folder's weights shard by shard, never holding more than one shard."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from stages._weights.index import INDEX_FILE, SINGLE_FILE

MAX_SHARD_BYTES = 2**31


class ShardWriter:
    """Collects tensors into shards of at most `max_shard_bytes`; `close` gives them the hub's names and index."""

    def __init__(self, model_dir: Path, max_shard_bytes: int = MAX_SHARD_BYTES) -> None:
        self.model_dir = model_dir
        self.max_shard_bytes = max_shard_bytes
        self.num_tensors = 0
        self.num_parameters = 0
        self.num_bytes = 0
        self._pending: dict[str, torch.Tensor] = {}
        self._shards: list[list[str]] = []

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Take one tensor; earlier ones may be written to make room."""
        if self._pending and _bytes(*self._pending.values(), tensor) > self.max_shard_bytes:
            self._flush()
        self._pending[name] = tensor.contiguous()
        self.num_tensors += 1
        self.num_parameters += tensor.numel()
        self.num_bytes += _bytes(tensor)

    def close(self) -> None:
        """Write what is left, then rename the shards and write the index."""
        self._flush()
        if len(self._shards) == 1:
            self._temporary(0).rename(self.model_dir / SINGLE_FILE)
            return
        weight_map: dict[str, str] = {}
        for number, names in enumerate(self._shards):
            file = f"model-{number + 1:05d}-of-{len(self._shards):05d}.safetensors"
            self._temporary(number).rename(self.model_dir / file)
            weight_map |= dict.fromkeys(names, file)
        index = {"metadata": {"total_size": self.num_bytes}, "weight_map": dict(sorted(weight_map.items()))}
        (self.model_dir / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n")

    def _flush(self) -> None:
        save_file(self._pending, self._temporary(len(self._shards)), metadata={"format": "pt"})
        self._shards.append(list(self._pending))
        self._pending = {}

    def _temporary(self, number: int) -> Path:
        return self.model_dir / f".shard-{number}.safetensors"


def _bytes(*tensors: torch.Tensor) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
