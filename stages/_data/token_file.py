"""Samples as token ids in flat arrays, written as they come: memory holds eight bytes a sample."""

import json
import shutil
from array import array
from pathlib import Path
from typing import Any, NamedTuple

PERCENTILES = (50, 90, 99)


class Sample(NamedTuple):
    """Token ids, and for each of them 1 if it is to be learnt."""

    input_ids: list[int]
    loss_mask: bytes


class TokenWriter:
    """A safetensors file with `input_ids` int32 [tokens], `loss_mask` uint8 [tokens], `offsets` int64 [samples + 1].

    The arrays are collected in files of their own beside it, which `close` joins.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offsets = array("q", [0])
        self.num_trained_tokens = 0
        self.largest_id = 0
        self._ids_path, self._mask_path = (path.with_name(f".{path.name}.{part}") for part in ("ids", "mask"))
        self._ids, self._mask = self._ids_path.open("wb"), self._mask_path.open("wb")

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def append(self, sample: Sample) -> None:
        """Add a sample at the end."""
        array("i", sample.input_ids).tofile(self._ids)
        self._mask.write(sample.loss_mask)
        self.offsets.append(self.offsets[-1] + len(sample.input_ids))
        self.largest_id = max(self.largest_id, *sample.input_ids)
        self.num_trained_tokens += sample.loss_mask.count(1, 1)  # nothing stands before the first token to predict it

    def close(self) -> None:
        """Write the file."""
        self._ids.close()
        self._mask.close()
        with self.path.open("wb") as file:
            file.write(_header({"offsets": ("I64", 8, len(self.offsets)), **self._per_token()}))
            self.offsets.tofile(file)
            for path in (self._ids_path, self._mask_path):
                with path.open("rb") as part:
                    shutil.copyfileobj(part, file, 2**20)
                path.unlink()

    def report(self) -> dict[str, Any]:
        """How many samples and tokens, how many are learnt, and lengths in tokens."""
        import numpy

        lengths = numpy.diff(numpy.frombuffer(self.offsets, dtype=numpy.int64))
        return {
            "num_samples": len(self),
            "num_tokens": self.offsets[-1],
            "num_trained_tokens": self.num_trained_tokens,
            "largest_token_id": self.largest_id,
            "length_mean": round(float(lengths.mean()), 1),
            **{f"length_p{p}": int(numpy.percentile(lengths, p, method="higher")) for p in PERCENTILES},
            "length_max": int(lengths.max()),
            "length_histogram": _histogram(lengths),
        }

    def _per_token(self) -> dict[str, tuple[str, int, int]]:
        return {"input_ids": ("I32", 4, self.offsets[-1]), "loss_mask": ("U8", 1, self.offsets[-1])}


def _histogram(lengths: Any) -> dict[str, int]:
    """Samples of 1 to 16 tokens, 17 to 32, 33 to 64 and so on; from the first range that has some to the last."""
    import numpy

    powers = numpy.ceil(numpy.log2(numpy.maximum(lengths, 16))).astype(int)
    counts = numpy.bincount(powers)
    return {
        f"{2 ** (power - 1) + 1 if power > 4 else 1}-{2**power}": int(counts[power])
        for power in range(int(powers.min()), len(counts))
    }


def _header(tensors: dict[str, tuple[str, int, int]]) -> bytes:
    """Of flat tensors one after the other, given as name -> (dtype, bytes of an item, items).

    https://huggingface.co/docs/safetensors/index#format
    """
    fields: dict[str, Any] = {}
    start = 0
    for name, (dtype, item_bytes, size) in tensors.items():
        end = start + item_bytes * size
        fields[name] = {"dtype": dtype, "shape": [size], "data_offsets": [start, end]}
        start = end
    text = json.dumps(fields, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
