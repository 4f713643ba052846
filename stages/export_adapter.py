"""Write a trained adapter as an ordinary LoRA, for a server that adds it to the untouched base. Reads, folds, writes.

Writes what the `export` command writes: adapter_config.json, adapter_model.safetensors, template.json; and export.json.
"""

import json
from typing import Any, Literal

from pipeline.artifact import Artifact
from pipeline.errors import UserError
from pipeline.stage import Needs, Resources, Workspace
from pipeline.strict import StrictModel
from stages import _needs

VERSION = 1


class Config(StrictModel):
    """How the adapter is stored."""

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"


class Inputs(StrictModel):
    """The base, the adapter's start, and the trained adapter."""

    model: Artifact
    init: Artifact
    trained: Artifact


def needs(config: Config, resources: Resources, known: dict[str, Artifact]) -> Needs:
    """Some of its matrices at a time."""
    return _needs.arithmetic(resources, known["model"], 0.5)


def run(config: Config, inputs: Inputs, out: Workspace, resources: Resources) -> dict[str, Any]:
    """The exact update at its own rank. Raises UserError for full fine-tuning, and for DoRA: vLLM serves none."""
    from stages._adaptation import exporting
    from stages._adaptation.start import read_adapter

    adapter = read_adapter(inputs.init.path)
    if getattr(adapter, "has_magnitude", False):
        raise UserError(f"serve.adapters: lora, but vLLM serves no DoRA adapters ({adapter.method}); use merged")
    form = exporting.form(None, config.dtype)
    report = exporting.export_trained(inputs.model, inputs.init.path, inputs.trained.path, form, out, resources)
    _refuse_output_layer(out)
    (out / "export.json").write_text(json.dumps(report, indent=1) + "\n")
    return {name: report[name] for name in ("method", "rank", "dtype", "relative_error", "max_relative_error")}


def _refuse_output_layer(out: Workspace) -> None:
    """https://github.com/vllm-project/vllm/issues/51594: its update would be missing from log-likelihoods."""
    targets = json.loads((out / "adapter_config.json").read_text())["target_modules"]
    if any(name.rpartition(".")[2] == "lm_head" for name in targets):
        raise UserError(
            "serve.adapters: lora, but vLLM leaves an adapter on lm_head out of log-likelihoods; use merged"
        )
