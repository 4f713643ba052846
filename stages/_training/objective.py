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
        input_ids_BT = batch.input_ids.to(engine.device)
        is_target_BT = batch.is_target.to(engine.device)
        self._predicts_BT = is_target_BT.roll(-1, dims=1)  # no row starts with a target, so nothing wraps around
        logits_KV = engine(input_ids=input_ids_BT, use_cache=False).logits
        return cross_entropy(logits_KV.float(), input_ids_BT[is_target_BT], reduction="sum")

    def _keep_predicting(self, _head: torch.nn.Module, args: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        (hidden_BTH,) = args
        return (hidden_BTH[self._predicts_BT],)
