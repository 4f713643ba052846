"""A few texts of our own on which a model is looked at: its loss, its logits, what it would say next."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from stages._peft.load import load_adapter, subtract_update

TEXTS = (
    "The harbour was quiet in the early morning. Two fishermen mended their nets while gulls walked along the wall, "
    "waiting for the first boats to come home with the night's catch.",
    "Water boils when its vapour pressure equals the pressure of the air above it. That is why eggs take longer to "
    "cook on a high mountain, where the air is thin and water boils below one hundred degrees.",
    "Maria buys four boxes of pencils. Each box holds twelve pencils, so she has 4 * 12 = 48. She gives 8 of "
    "them to her brother and keeps 48 - 8 = 40 pencils.",
    "def mean(values):\n    total = 0\n    for value in values:\n        total += value\n"
    "    return total / len(values)\n",
)


def load_model(model_dir: Path, dtype: torch.dtype | str = "auto") -> Any:
    """The model of a folder on the CPU, for inference."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(model_dir, dtype=dtype, local_files_only=True).eval()


def load_adapted(
    model_dir: Path, adapter_dir: Path, *, start_dir: Path | None, dtype: torch.dtype | str = "auto"
) -> Any:
    """The model with the adapter of a folder. With `start_dir` its base is first reduced by the update found there."""
    model = load_model(model_dir, dtype)
    if start_dir is not None:
        started = load_adapter(model, start_dir)
        subtract_update(started)
        model = started.unload()
    return load_adapter(model, adapter_dir).eval()


def start_losses(model_dir: Path, adapter_dir: Path, *, subtract: bool) -> tuple[float, float]:
    """(loss of the base model, loss of the model as training would start it), in nats a token over all texts."""
    tokens = probe_tokens(model_dir)
    base = load_model(model_dir)
    base_loss = mean_loss(base, tokens)
    started = load_adapter(base, adapter_dir)
    if subtract:
        subtract_update(started)
    return base_loss, mean_loss(started.eval(), tokens)


def probe_tokens(model_dir: Path) -> list[torch.Tensor]:
    """Each text as token ids [T]."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_dir, local_files_only=True)
    return [torch.tensor(tokenizer(text)["input_ids"]) for text in TEXTS]


@torch.no_grad()
def mean_loss(model: Any, texts: list[torch.Tensor]) -> float:
    """Next-token cross-entropy in nats, averaged over the tokens of all texts."""
    losses = [
        cross_entropy(model(input_ids=ids[None]).logits[0, :-1].float(), ids[1:], reduction="none") for ids in texts
    ]
    return float(torch.cat(losses).mean())
