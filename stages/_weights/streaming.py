"""Write a safetensors file one tensor after the other, for tensors that are not in memory together.

Source of the format: https://huggingface.co/docs/safetensors
"""

import json
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

import torch

from pipeline.errors import UserError
from stages._weights.matrix import TORCH_DTYPE

DTYPE_NAMES = {dtype: name for name, dtype in TORCH_DTYPE.items()} | {
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_ENTRY_BYTES = 128
"""Of a tensor's entry in the header beyond its name, at most: a dtype, a few dimensions and two offsets."""


class StreamWriter:
    """A file of tensors of one dtype, among those named: offsets of mixed ones would have to be sorted by it.

    The header comes last, into room left for it in front, so that no shape has to be known before the values; the file
    has its name once it is complete. `room_bytes` is for tensors that are not named beforehand.
    """

    def __init__(
        self, file: Path, names: Iterable[str] = (), dtype: torch.dtype = torch.float32, room_bytes: int = 0
    ) -> None:
        if dtype not in DTYPE_NAMES:
            raise UserError(f"{file}: found tensors of {dtype}, expected one of {', '.join(map(str, DTYPE_NAMES))}")
        room = 1024 + room_bytes + sum(_most_bytes(name) for name in names)
        self.names: list[str] = []
        self.num_bytes = 0
        self._room = room + -room % 8
        self._unused = room - 1024
        self._file = file
        self._dtype = dtype
        self._entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
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

    def has_room(self, name: str) -> bool:
        """Whether the header can take one more tensor."""
        return _most_bytes(name) <= self._unused

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Write the next tensor, in the file's dtype."""
        values = tensor.detach().to("cpu", self._dtype).contiguous().flatten()
        begin, self.num_bytes = self.num_bytes, self.num_bytes + values.numel() * values.element_size()
        self.names.append(name)
        self._unused -= _most_bytes(name)
        self._entries[name] = {
            "dtype": DTYPE_NAMES[self._dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, self.num_bytes],
        }
        self._stream.write(memoryview(values.view(torch.uint8).numpy()))

    def close(self) -> None:
        """Write the header and give the file its name."""
        header = json.dumps(self._entries, separators=(",", ":")).encode()
        assert len(header) <= self._room, (len(header), self._room)
        self._stream.seek(0)
        self._stream.write(self._room.to_bytes(8, "little") + header.ljust(self._room))
        self._stream.close()
        Path(self._stream.name).rename(self._file)


def _most_bytes(name: str) -> int:
    return len(name) + _ENTRY_BYTES
