"""Merge a trained adapter into its base: W + s B N A, less the start where it was subtracted. Reads, verifies, writes.

After full fine-tuning, the trained weights take the place of the base's. Where training saw a quantised base, the merge
goes into the base as it was, and the metrics say what that changes on the probe texts.

Writes the layout of prepare_model with the chat template of the training, template.json, merge_report.json with what
the verification found, and probes.json with what the merged model says, for the comparison with the served one.
"""

from typing import Any, Literal

from pipeline import machine
from pipeline.artifact import Artifact
from pipeline.stage import Needs, Resources, Workspace
from pipeline.strict import StrictModel
from stages import _needs
from stages._adaptation.whole_model import PARAMETER_BYTES, Verify, memory_problem

VERSION = 2  # chat_template.jinja and stop tokens of the training


class Config(StrictModel):
    """How the merged model is stored."""

    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """By default that of the base."""
    verify: Verify = "answers"
    """`answers`: every tensor, then what the trained and the merged model say, which takes memory for the whole model
    in float32. `tensors`: only the former, and the server of the merged model is not compared with it either."""


class Export(StrictModel):
    """The merged model as it is: the hub's layout, which transformers and vLLM load."""

    format: Literal["merged"] = "merged"


class Inputs(StrictModel):
    """The base, the adapter's start, and the trained adapter."""

    model: Artifact
    init: Artifact
    trained: Artifact


def preflight(config: Config, resources: Resources, known: dict[str, Artifact]) -> list[str]:
    """Whether memory suffices for comparing answers, once the base is there."""
    return size_problems(config, known["model"].metrics()["num_parameters"]) if "model" in known else []


def size_problems(config: Config, num_parameters: int) -> list[str]:
    """The same for a model that is not there yet, of which only its size is known."""
    line = memory_problem(num_parameters, machine.memory_total_bytes()) if config.verify == "answers" else None
    return [line] if line else []


def needs(config: Config, resources: Resources, known: dict[str, Artifact]) -> Needs:
    """The whole model where answers are compared."""
    return _needs.arithmetic(resources, known["model"], PARAMETER_BYTES / 4 if config.verify == "answers" else 0.5)


def run(config: Config, inputs: Inputs, out: Workspace, resources: Resources) -> dict[str, Any]:
    """Merge shard by shard, then compare with the adapter. Raises StepFailed if they do not agree."""
    from stages._adaptation import merging

    sources = merging.Sources(inputs.model.path, inputs.init.path, inputs.trained.path)
    return merging.merge(sources, config.dtype, out, resources, config.verify)


def export(
    config: Config, inputs: Inputs, artifact: Artifact, out: Workspace, options: Export, resources: Resources
) -> dict[str, Any]:
    """Copy every file of the merged model."""
    import shutil

    for name in artifact.manifest()["files"]:
        shutil.copyfile(artifact / name, out / name)
    return artifact.metrics()
