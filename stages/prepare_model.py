"""Bring a model into one form: the hub's layout with safetensors weights in one dtype. Reads a source, writes a model.

Writes config.json, generation_config.json, the tokenizer's files, and model.safetensors (or shards and their index).
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from pipeline.artifact import Artifact
from pipeline.downloads import Download
from pipeline.stage import Needs, Resources, Workspace
from pipeline.strict import LocalPath, StrictModel
from stages import _needs

VERSION = 2


SHARD_BYTES = 10 * 2**30
"""The largest file of weights that is usual, of 5 GiB, twice."""


class Hub(StrictModel):
    """A model on the Hugging Face hub at one commit. HF_ENDPOINT, HF_HUB_OFFLINE and HF_TOKEN are respected."""

    kind: Literal["hub"]
    name: str
    revision: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")]
    """The full commit hash: a branch or tag could change under a cached result."""


class Local(StrictModel):
    """A folder in the hub's layout with safetensors weights."""

    kind: Literal["local"]
    path: LocalPath


class Gguf(StrictModel):
    """A GGUF file inside an installed Python package; it is de-quantised."""

    kind: Literal["gguf"]
    package: str
    version: str
    file: str = "*.gguf"
    """A glob inside the package's folder that matches exactly one file."""


Dtype = Literal["float32", "bfloat16", "float16"]
Source = Annotated[Hub | Local | Gguf, Field(discriminator="kind")]


class Config(StrictModel):
    """Which model, in which dtype."""

    source: Source
    dtype: Dtype = "float32"
    num_parameters: Annotated[int, Field(gt=0)] | None = None
    """Stated so that memory and disk can be judged before the model can be reached; checked when it is there."""


class Inputs(StrictModel):
    """None: this is where a model enters."""


def downloads(config: Config, roles: frozenset[str]) -> list[Download]:
    """A model of the hub."""
    from stages._weights import sources

    return [sources.hub_files(config.source)] if isinstance(config.source, Hub) else []


def preflight(config: Config, resources: Resources, known: dict[str, Artifact]) -> list[str]:
    """Whether the source can be reached and the disk can hold the model."""
    from stages._weights import sources

    store = resources.store_dir or Path.cwd()
    return sources.problems(config.source) + sources.disk_problems(config, store)


def needs(config: Config, resources: Resources, known: dict[str, Artifact]) -> Needs:
    """A shard and its copy, or all of a model that is de-quantised."""
    from stages._weights import sources

    num_parameters = sources.num_parameters(config)
    whole = SHARD_BYTES if num_parameters is None else 8 * num_parameters
    return Needs(
        memory_bytes=_needs.PYTHON_BYTES + (whole if config.source.kind == "gguf" else min(whole, SHARD_BYTES))
    )


def run(config: Config, inputs: Inputs, out: Workspace, resources: Resources) -> dict[str, Any]:
    """Fetch, convert, write. Raises UserError for a source without safetensors or of another size than stated."""
    from stages._weights import convert

    return convert.write_model(config, out)
