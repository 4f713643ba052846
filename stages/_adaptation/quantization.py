"""What a trained adapter's frozen base was quantised to, and what merging into the base as it was changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch

from pipeline.strict import StrictModel
from stages._adaptation.probe import load_model, mean_loss, probe_tokens

FILE = "quantization.json"


class Quantization(StrictModel):
    """The quantised base of one training."""

    kind: Literal["nf4", "fp4"]
    dtype: Literal["float32", "bfloat16", "float16"]
    """Of everything else, and of the computation."""

    def write(self, trained_dir: Path) -> None:
        """Leave it beside the adapter."""
        (trained_dir / FILE).write_text(self.model_dump_json() + "\n")


def read_quantization(trained_dir: Path) -> Quantization | None:
    """How the base was quantised; None if it was not."""
    file = trained_dir / FILE
    return Quantization.model_validate_json(file.read_text()) if file.exists() else None


def probe_losses(
    quantization: Quantization, load_trained: Callable[[torch.dtype], Any], merged_dir: Path
) -> dict[str, float]:
    """Loss on the probe texts, in nats a token: of the adapter on its quantised base, as it was trained, and of the
    merged model, whose weights are the base's own.
    """
    from stages._peft.quantize import quantize_base

    tokens = probe_tokens(merged_dir)
    trained = load_trained(getattr(torch, quantization.dtype))
    quantize_base(trained, quantization.kind)
    losses = mean_loss(trained, tokens), mean_loss(load_model(merged_dir), tokens)
    return {
        "probe_loss_quantized": losses[0],
        "probe_loss_merged": losses[1],
        "probe_loss_difference": losses[1] - losses[0],
    }
