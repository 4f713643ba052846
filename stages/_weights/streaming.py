"""Write a safetensors file one tensor after the other, for tensors that are not in memory together.

Source of the format: https://huggingface.co/docs/safetensors
"""

import json
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

import torch

_ENTRY_BYTES = 128
"""Of a tensor's entry in the header beyond its name, at most: a dtype, two dimensions and two offsets."""


class StreamWriter:
    """A file of float32 tensors, among those named. All one dtype: offsets of mixed ones would have to be sorted by it.

    The header comes last, into room left for it in front, so that no shape has to be known before the values; the file
    has its name once it is complete.
    """

    def __init__(self, file: Path, names: Iterable[str]) -> None:
        room = 1024 + sum(len(name) + _ENTRY_BYTES for name in names)
        self._room = room + -room % 8
        self._file = file
        self._entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
        self._end = 0
        self._stream = file.with_name(f"{file.name}.partial").open("wb")
        self._stream.seek(8 + self._room)

    def __enter__(self) -> "StreamWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._stream.close()

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Write the next tensor."""
        begin, self._end = self._end, self._end + 4 * tensor.numel()
        self._entries[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [begin, self._end]}
        self._stream.write(memoryview(tensor.detach().float().cpu().contiguous().numpy()).cast("B"))

    def close(self) -> None:
        """Write the header and give the file its name."""
        header = json.dumps(self._entries, separators=(",", ":")).encode()
        assert len(header) <= self._room, (len(header), self._room)
        self._stream.seek(0)
        self._stream.write(self._room.to_bytes(8, "little") + header.ljust(self._room))
        self._stream.close()
        Path(self._stream.name).rename(self._file)
