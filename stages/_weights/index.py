"""Which tensor lies where in a model folder. Standard library only, so that a preflight can use it.

Source of the formats: https://huggingface.co/docs/safetensors and the hub's `model.safetensors.index.json`.
"""

import json
import math
from pathlib import Path
from typing import NamedTuple

from pipeline.errors import UserError

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
ITEM_BYTES = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


class StoredTensor(NamedTuple):
    """One tensor in a safetensors file; `offset` is in bytes from the start of the file."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int
    num_bytes: int

    @property
    def num_elements(self) -> int:
        """The product of the shape."""
        return math.prod(self.shape)


def shard_files(model_dir: Path) -> list[Path]:
    """The safetensors files of a model folder. Raises UserError if one that it should have is missing."""
    if (model_dir / INDEX_FILE).exists():
        names = sorted(set(json.loads((model_dir / INDEX_FILE).read_text())["weight_map"].values()))
    elif (model_dir / SINGLE_FILE).exists():
        names = [SINGLE_FILE]
    else:
        raise UserError(f"{model_dir}: found no {SINGLE_FILE} and no {INDEX_FILE}, expected the hub's layout")
    missing = [name for name in names if not (model_dir / name).exists()]
    if missing:
        raise UserError(f"{model_dir}: {INDEX_FILE} names {', '.join(missing)}, found no such file; download it again")
    return [model_dir / name for name in names]


def stored_tensors(model_dir: Path) -> dict[str, StoredTensor]:
    """All tensors of a model folder by name, in the order of the files."""
    return {name: tensor for file in shard_files(model_dir) for name, tensor in tensors_of(file).items()}


def tensors_of(file: Path) -> dict[str, StoredTensor]:
    """The tensors of one safetensors file, in the order of their data. Raises UserError for a file that is truncated or
    of another format.
    """
    header, data_start = _header(file)
    header.pop("__metadata__", None)
    tensors = {name: _stored(file, entry, data_start) for name, entry in header.items()}
    end = max((tensor.offset + tensor.num_bytes for tensor in tensors.values()), default=data_start)
    if file.stat().st_size < end:
        raise UserError(f"{file}: found {file.stat().st_size} bytes, its header expects {end}; download it again")
    return dict(sorted(tensors.items(), key=lambda item: item[1].offset))


def _header(file: Path) -> tuple[dict, int]:
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        text = stream.read(length) if length < file.stat().st_size else b""
    try:
        return json.loads(text), 8 + length
    except ValueError:
        raise UserError(f"{file}: found no safetensors header; download it again") from None


def _stored(file: Path, entry: dict, data_start: int) -> StoredTensor:
    begin, end = entry["data_offsets"]
    return StoredTensor(file, entry["dtype"], tuple(entry["shape"]), data_start + begin, end - begin)
