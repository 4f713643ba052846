"""Model FLOPs of a step, and the share of the device's peak that they are: model FLOPs utilisation.

As PaLM defines it (https://arxiv.org/abs/2204.02311, appendix B): what the model's definition needs, whatever is done
besides, such as padding or activations computed again. There, with all weights trained, a token needs 6 N for N weights
in matrices: 2 N forward, 2 N for the gradients of activations, 2 N for those of weights. The last are not needed of
frozen weights: 4 N. Attention adds two products of queries by keys by width a layer, and twice that backward; causal
attention needs half of them, which PaLM does not take off. The output head is needed where a label is.
"""

from typing import Any, NamedTuple

import numpy as np
import torch

PEAK_FLOPS: tuple[tuple[str, dict[str, float]], ...] = (
    ("H100 PCIe", {"16 bits": 756e12, "float32": 51e12}),
    ("H100 NVL", {"16 bits": 835e12}),
    ("H100", {"16 bits": 989e12, "float32": 67e12}),
    ("H200", {"16 bits": 989e12, "float32": 67e12}),
    ("B200", {"16 bits": 2250e12}),
    ("A100", {"16 bits": 312e12, "float32": 19.5e12}),
    ("L40S", {"16 bits": 362e12, "float32": 91.6e12}),
)
"""Dense FLOP/s by a part of the device's name and what is computed in, the first that fits. From the data sheets, which
give twice as much for sparse matrices: https://www.nvidia.com/en-us/data-center/ followed by h100, h200, a100 or l40s;
B200: https://nvdam.widen.net/s/wwnsxrhm2w/blackwell-datasheet-3384703
"""


class ModelSize(NamedTuple):
    """What the FLOPs of a model follow from."""

    frozen: int
    """Weights in matrices, without the embedding, which is looked up, and the output head."""
    trained: int
    head_frozen: int
    head_trained: int
    attention_width: int
    """Heads times head size."""
    num_layers: int

    def step_flops(self, lengths: np.ndarray, num_targets: int) -> float:
        """Of one step over samples of these lengths, of whose tokens so many are predicted."""
        num_tokens, num_pairs = float(lengths.sum()), float((lengths * (lengths + 1) / 2).sum())
        layers = (4 * self.frozen + 6 * self.trained) * num_tokens
        head = (4 * self.head_frozen + 6 * self.head_trained) * num_targets
        return layers + head + 12 * self.attention_width * self.num_layers * num_pairs


def model_size(model: Any) -> ModelSize | None:
    """Of a decoder-only transformer in memory, whole or divided by ZeRO-3; None where its FLOPs are not that simple."""
    config = model.config.get_text_config()
    heads, hidden = getattr(config, "num_attention_heads", None), getattr(config, "hidden_size", None)
    if not heads or not hidden or any(name[0] == "n" and "experts" in name for name in vars(config)):
        return None  # of experts, only some work for a token
    head = model.get_output_embeddings().weight
    apart = {id(head), id(model.get_input_embeddings().weight)}
    sizes = {True: 0, False: 0}
    for parameter in model.parameters():
        if len(_shape(parameter)) == 2 and id(parameter) not in apart:
            sizes[parameter.requires_grad] += _shape(parameter).numel()
    head_size = {head.requires_grad: _shape(head).numel()}
    width = heads * (getattr(config, "head_dim", None) or hidden // heads)
    of_head = head_size.get(False, 0), head_size.get(True, 0)
    return ModelSize(sizes[False], sizes[True], *of_head, width, config.num_hidden_layers)


def peak_flops(device_name: str, dtype: str) -> float | None:
    """FLOP/s of a device in "float32", "bfloat16" or "float16"; None if it is not known."""
    kind = "float32" if dtype == "float32" else "16 bits"
    return next((peaks.get(kind) for name, peaks in PEAK_FLOPS if name in device_name), None)


def _shape(parameter: Any) -> torch.Size:
    """Also of a part of one, and of one in 4 bits."""
    if hasattr(parameter, "quant_state"):
        return torch.Size(parameter.quant_state.shape)
    return torch.Size(getattr(parameter, "ds_shape", parameter.shape))
