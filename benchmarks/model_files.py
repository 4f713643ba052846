"""Model folders of real shapes for the benchmark of starts: sharded safetensors files in bfloat16."""

import json
from pathlib import Path

import torch

from stages._weights.architecture import Shapes, llama_shapes
from stages._weights.index import INDEX_FILE

SHARD_BYTES = 5 * 10**9
"""As most models on the hub are cut."""
DEVIATION = 0.02
"""Of the random weights: what such models are initialised with."""


def mistral_7b(num_layers: int = 32) -> Shapes:
    """https://huggingface.co/mistralai/Mistral-7B-v0.1/blob/main/config.json"""
    return llama_shapes(
        hidden=4096,
        intermediate=14336,
        num_layers=num_layers,
        num_heads=32,
        num_kv_heads=8,
        head_dim=128,
        vocabulary=32000,
        tied=False,
    )


def llama_70b(num_layers: int = 80) -> Shapes:
    """https://huggingface.co/meta-llama/Llama-2-70b-hf/blob/main/config.json"""
    return llama_shapes(
        hidden=8192,
        intermediate=28672,
        num_layers=num_layers,
        num_heads=64,
        num_kv_heads=8,
        head_dim=128,
        vocabulary=32000,
        tied=False,
    )


def write_model(folder: Path, shapes: Shapes, *, sparse: bool) -> Path:
    """The folder, written if it is not there yet. `sparse`: only holes, which read as zeros and take no disk; otherwise
    projections are random, the same in every layer, and only embeddings and norms are holes.
    """
    if (folder / INDEX_FILE).exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    values = {} if sparse else _random({shape for name, shape in shapes.items() if "_proj." in name})
    shards = _shards(shapes)
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file = folder / f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _write_shard(file, {name: shapes[name] for name in names}, values)
        weight_map |= dict.fromkeys(names, file.name)
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    (folder / INDEX_FILE).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def _random(shapes: set[tuple[int, ...]]) -> dict[tuple[int, ...], memoryview]:
    generator = torch.Generator().manual_seed(0)
    weights = {shape: (torch.randn(shape, generator=generator) * DEVIATION).bfloat16() for shape in sorted(shapes)}
    return {shape: memoryview(weight.view(torch.uint8).numpy()).cast("B") for shape, weight in weights.items()}


def _shards(shapes: Shapes) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    size = 0
    for name, shape in shapes.items():
        if size + _num_bytes(shape) > SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += _num_bytes(shape)
    return shards


def _write_shard(file: Path, shapes: Shapes, values: dict[tuple[int, ...], memoryview]) -> None:
    """Source of the format: https://huggingface.co/docs/safetensors"""
    begins, end = {}, 0
    for name, shape in shapes.items():
        begins[name], end = end, end + _num_bytes(shape)
    header = {
        name: {"dtype": "BF16", "shape": shape, "data_offsets": [begins[name], begins[name] + _num_bytes(shape)]}
        for name, shape in shapes.items()
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        start = stream.tell()
        stream.truncate(start + end)
        for name, shape in shapes.items():
            if "_proj." in name and shape in values:
                stream.seek(start + begins[name])
                stream.write(values[shape])


def _num_bytes(shape: tuple[int, ...]) -> int:
    return 2 * torch.Size(shape).numel()
