"""The training objective: next-token cross-entropy on response tokens, with logits computed nowhere else.

Shape suffixes: B = rows, T = tokens of a row, K = tokens that are targets, H = hidden size, V = vocabulary.
"""

from typing import Any

import torch
from torch.nn.functional import cross_entropy

from stages._training.batches import Batch


class Objective:
    """Sums the loss of batches over the targets' tokens.

    A hook on the output head keeps only the hidden states that predict a target: with 49,000 tokens in the vocabulary
    the head costs a fifth of a small model's time, and its logits most of the memory.
    """

    def __init__(self, model: Any) -> None:
        self._predicts_BT: torch.Tensor | None = None
        model.get_output_embeddings().register_forward_pre_hook(self._keep_predicting)

    def summed_loss(self, engine: Any, batch: Batch) -> torch.Tensor:
        """The sum over the batch's targets, in nats, float32; differentiable if gradients are on."""
        return self._cross_entropy(engine, batch, "sum")

    def target_losses(self, engine: Any, batch: Batch) -> torch.Tensor:
        """The same for each target by itself, row after row: [K]."""
        return self._cross_entropy(engine, batch, "none")

    def _cross_entropy(self, engine: Any, batch: Batch, reduction: str) -> torch.Tensor:
        input_ids_BT = batch.input_ids.to(engine.device)
        is_target_BT = batch.is_target.to(engine.device)
        self._predicts_BT = is_target_BT.roll(-1, dims=1)  # no row starts with a target, so nothing wraps around
        logits_KV = engine(input_ids=input_ids_BT, use_cache=False, **_limits(batch, engine.device)).logits
        return cross_entropy(logits_KV.float(), input_ids_BT[is_target_BT], reduction=reduction)

    def _keep_predicting(self, _head: torch.nn.Module, args: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        (hidden_BTH,) = args
        return (hidden_BTH[self._predicts_BT],)


def _limits(batch: Batch, device: torch.device) -> dict[str, Any]:
    """Where the samples of a packed row begin and end, in the forms that attention functions take; else nothing."""
    lengths = batch.sample_lengths
    if lengths is None:
        return {}
    limits = torch.tensor([0, *lengths], dtype=torch.int32, device=device).cumsum(0, dtype=torch.int32)
    return {
        "position_ids": torch.cat([torch.arange(length) for length in lengths])[None].to(device),
        "sample_lengths": lengths,
        "cu_seq_lens_q": limits,
        "cu_seq_lens_k": limits,
        "max_length_q": max(lengths),
        "max_length_k": max(lengths),
    }
