"""A frozen base in 4 bits under an adapter, as QLoRA has it (Dettmers et al., 2023, https://arxiv.org/abs/2305.14314)."""

from typing import Literal

import torch
from bitsandbytes.nn.modules import Linear4bit, Params4bit
from peft import PeftModel
from torch import nn

from pipeline.errors import UserError
from stages._peft.load import adapted_layers

Quantization = Literal["nf4", "fp4"]


def quantize_base(model: PeftModel, kind: Quantization, device: str = "cpu") -> None:
    """Replace the weight of every adapted layer by its nearest in 4 bits, with the scales quantised too.

    It comes last: what a method takes off the base is taken off before, so that what is left is quantised (QPiSSA,
    https://arxiv.org/abs/2404.02948, section 3.2). Raises UserError for an adapter without linear layers under it.
    """
    layers = [layer for _name, layer in adapted_layers(model)]
    if not layers:
        raise UserError("train.quantize: found no linear layer under the adapter, expected some; set it to null")
    for layer in layers:
        layer.base_layer = quantized(layer.get_base_layer(), kind, device)


def quantized(layer: nn.Linear, kind: Quantization, device: str) -> Linear4bit:
    """The same layer on `device` with its weight in 4 bits and its bias as it was, computing in the weight's dtype."""
    dtype = layer.weight.dtype
    short = Linear4bit(
        layer.in_features, layer.out_features, bias=False, compute_dtype=dtype, quant_type=kind, device="meta"
    )
    short.weight = Params4bit(layer.weight.detach(), requires_grad=False, quant_type=kind, module=short)
    short.bias = layer.bias
    short.support_avx512bf16_for_cpu = False  # its form for inference rounds the scales once more, and for good
    return short.to(torch.device(device))
