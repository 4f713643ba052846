"""Write a source as a model folder in one dtype, one shard in memory at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file

from pipeline.errors import UserError
from pipeline.stage import Workspace
from stages._weights.folder import copy_small_files, state_dtype
from stages._weights.index import shard_files, stored_tensors
from stages._weights.naming import loaded_names
from stages._weights.sources import cached_snapshot, gguf_file, hub_files
from stages._weights.writing import ShardWriter

if TYPE_CHECKING:
    from stages.prepare_model import Config, Gguf, Hub, Source


def write_model(config: Config, out: Workspace) -> dict[str, Any]:
    """Write the model `config` names into `out`; its metrics."""
    dtype = getattr(torch, config.dtype)
    writer = ShardWriter(out.path)
    for count, (name, tensor) in enumerate(_tensors(config.source, out.path), start=1):
        writer.add(name, tensor.to(dtype) if tensor.is_floating_point() else tensor)
        out.progress(count)
    writer.close()
    state_dtype(out.path, config.dtype)
    _check_size(config, writer.num_parameters)
    return {"num_parameters": writer.num_parameters, "bytes": writer.num_bytes, "dtype": config.dtype}


def _tensors(source: Source, target: Path) -> Iterator[tuple[str, torch.Tensor]]:
    if source.kind == "gguf":
        return _from_gguf(source, target)
    return _from_folder(_download(source) if source.kind == "hub" else source.path, target)


def _from_folder(folder: Path, target: Path) -> Iterator[tuple[str, torch.Tensor]]:
    copy_small_files(folder, target)
    names = loaded_names(folder, stored_tensors(folder))
    for shard in shard_files(folder):
        yield from ((names[name], tensor) for name, tensor in load_file(shard).items())


def _download(source: Hub) -> Path:
    if cached := cached_snapshot(source):
        return cached
    from huggingface_hub import snapshot_download

    files = hub_files(source)
    folder = snapshot_download(
        files.name,
        revision=files.revision,
        allow_patterns=list(files.patterns),
        ignore_patterns=list(files.without),
    )
    return Path(folder)


def _from_gguf(source: Gguf, target: Path) -> Iterator[tuple[str, torch.Tensor]]:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything is in the package
    from transformers import AutoModelForCausalLM, AutoTokenizer

    file = gguf_file(source)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(target)
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    del model.config.quantization_config  # what is written is no longer quantised
    model.config.save_pretrained(target)
    model.generation_config.save_pretrained(target)
    tied = set(model.all_tied_weights_keys)
    yield from ((name, tensor) for name, tensor in model.state_dict().items() if name not in tied)


def _check_size(config: Config, found: int) -> None:
    if config.num_parameters and abs(found - config.num_parameters) > 0.01 * config.num_parameters:
        raise UserError(f"model.num_parameters: got {config.num_parameters}, found {found}; correct it or leave it out")
