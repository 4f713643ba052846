"""Attention over packed rows: each sample by itself.

A mask over the whole row would cost its length squared, most of it for nothing. Flash attention takes the samples'
limits itself; for the others each sample is cut out and PyTorch's own attention called on it. transformers passes what
a model's `forward` does not know on to its attention function, which is how the limits get here:
https://huggingface.co/docs/transformers/attention_interface
"""

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from pipeline.errors import UserError
from stages._training.batches import Batch
from stages._training.objective import Objective

NAME = "each_sample"
PROBE_TOKENS = 64
FLOAT32_TOLERANCE, TOLERANCE = 1e-3, 0.1
"""Largest mean difference of the probe's losses, in nats a token: in float32, and in dtypes that round."""


def each_sample(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    sample_lengths: list[int],
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    position_bias: torch.Tensor | None = None,
    **_other: Any,
) -> tuple[torch.Tensor, None]:
    """An attention function of transformers. Query, key and value are [1, heads, T, head size], the result
    [1, T, heads, head size]. Raises UserError for what a model adds to plain attention.
    """
    if softcap is not None or s_aux is not None or position_bias is not None:
        raise UserError(f"train.packing: {type(module).__name__} has more than plain attention; leave packing out")
    parts = (tensor.split(sample_lengths, dim=2) for tensor in (query, key, value))
    outputs = []
    for one_query, one_key, one_value in zip(*parts, strict=True):
        length = one_query.shape[2]
        window = _window(length, sliding_window, query.device)
        output = scaled_dot_product_attention(
            one_query,
            one_key,
            one_value,
            attn_mask=window,
            dropout_p=dropout,
            scale=scaling,
            is_causal=window is None and length > 1,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        outputs.append(output)
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous(), None


def _window(length: int, sliding_window: int | None, device: torch.device) -> torch.Tensor | None:
    """Which of `length` tokens each sees, or nothing where it is all before it."""
    if sliding_window is None or length <= sliding_window:
        return None
    causal: torch.Tensor = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    return causal.triu(1 - sliding_window)


@torch.no_grad()
def attend_within_samples(engine: Any, objective: Objective, input_ids: torch.Tensor) -> None:
    """Let the engine's model take packed batches. Every process must call it, with the same tokens.

    Raises UserError if the model cannot. It is tried: a sample's losses must not depend on whether it has a row of its
    own or is there twice, where a leak would let the second copy be read off the first.
    """
    model = getattr(engine.module, "get_base_model", lambda: engine.module)()
    kind = f"{model.config.model_type} ({type(model).__name__})"
    sample = input_ids[:PROBE_TOKENS].long()
    engine.eval()
    alone = objective.target_losses(engine, _predicted(sample, copies=1)._replace(sample_lengths=None))
    if not str(model.config._attn_implementation).startswith("flash"):
        AttentionInterface.register(NAME, each_sample)
        model.set_attn_implementation(NAME)
    try:
        twice = objective.target_losses(engine, _predicted(sample, copies=2))
    except TypeError as error:
        raise UserError(f"train.packing: models of type {kind} do not take packed rows: {error}") from error
    difference = float((twice.view(2, -1) - alone).abs().mean(dim=1).max())
    tolerance = FLOAT32_TOLERANCE if model.dtype == torch.float32 else TOLERANCE
    if not difference <= tolerance:
        raise UserError(
            f"train.packing: in models of type {kind} samples of one row are not kept apart: their losses are "
            f"{difference:.2g} nats a token from those of a row each, expected at most {tolerance}; leave packing out"
        )


def _predicted(sample: torch.Tensor, copies: int) -> Batch:
    """A packed row with copies of a sample, in which all tokens but the first are to be predicted."""
    is_target = torch.ones_like(sample, dtype=torch.bool)
    is_target[0] = False
    return Batch(sample.repeat(copies)[None], is_target.repeat(copies)[None], [len(sample)] * copies)
