"""A PEFT linear layer with a core: y = W x + s B N A x.

PEFT keeps data in the layer and behaviour in a `LoraVariant`; KaSA there is the precedent with one more factor.
"""

from typing import Any

import torch
from peft.tuners.lora import Linear
from peft.tuners.lora.config import LoraConfig
from peft.tuners.lora.dora import DoraLinearLayer
from peft.tuners.lora.layer import LoraLayer, LoraVariant
from peft.tuners.lora.variants import DoraLinearVariant, _register_frozen_peft_weight
from torch import nn
from torch.nn.functional import linear

from stages._peft.names import INT_TUNE, N_LORA, OURS, S_LORA
from stages._weights.partitioned import reader
from stages.adapters.algebra import fold
from stages.adapters.base import Order


class StructuredLinear(Linear):
    """PEFT's LoRA layer with one more module, lora_N [R, R], per adapter of a three-factor method."""

    adapter_layer_names = (*LoraLayer.adapter_layer_names, "lora_N")

    def update_layer(self, adapter_name: str, *args: Any, config: LoraConfig, **kwargs: Any) -> None:
        """Add an adapter, as PEFT does."""
        if "lora_N" not in self._modules:
            self.lora_N = nn.ModuleDict()
            self.core_order: dict[str, Order] = {}
        self.core_order[adapter_name] = getattr(config, "core_order", "BNA")
        super().update_layer(adapter_name, *args, config=config, **kwargs)

    def resolve_lora_variant(self, *, config: LoraConfig, **kwargs: Any) -> LoraVariant | None:
        """Our variant where `init_lora_weights` asks for one, else what PEFT would choose."""
        ours = {S_LORA: StructuredVariant, N_LORA: NystromVariant, INT_TUNE: CoreOnlyVariant}
        if config.init_lora_weights not in ours:
            return super().resolve_lora_variant(config=config, **kwargs)
        if config.use_dora:
            return {S_LORA: StructuredDoraVariant, N_LORA: NystromDoraVariant}[config.init_lora_weights]()
        return ours[config.init_lora_weights]()

    def reset_lora_parameters(self, adapter_name: str, init_lora_weights: bool | str) -> None:
        """A by Kaiming's rule and B zero for our methods too; their variants then set what differs."""
        super().reset_lora_parameters(adapter_name, True if init_lora_weights in OURS else init_lora_weights)

    def folded_weight(self, adapter: str) -> torch.Tensor:
        """A' [R, I] with B A' = B N A, differentiable."""
        return fold(self.lora_A[adapter].weight, self.lora_N[adapter].weight, self.core_order[adapter])

    def get_delta_weight(self, adapter: str) -> torch.Tensor:
        """The update s B N A [O, I], multiplied in float32 or better, in the dtype of B."""
        if adapter not in self.lora_N:
            return super().get_delta_weight(adapter)
        b_OR = self.lora_B[adapter].weight
        precision = torch.promote_types(b_OR.dtype, torch.float32)
        a_RI, n_RR = self.lora_A[adapter].weight.to(precision), self.lora_N[adapter].weight.to(precision)
        folded_RI = fold(a_RI, n_RR, self.core_order[adapter])
        return (b_OR.to(precision) @ folded_RI * self.scaling[adapter]).to(b_OR.dtype)


class StructuredVariant(LoraVariant):
    """SLoRA: three trained factors. Also the base of the Nystrom methods."""

    @staticmethod
    def init(module: StructuredLinear, adapter_name: str, config: LoraConfig, **kwargs: Any) -> None:
        """N by Kaiming's rule: what a linear layer starts with."""
        weight = module.lora_A[adapter_name].weight
        rank = module.r[adapter_name]
        module.lora_N[adapter_name] = nn.Linear(rank, rank, bias=False, device=weight.device, dtype=weight.dtype)

    @staticmethod
    def forward(
        module: StructuredLinear, active_adapter: str, x: torch.Tensor, result: torch.Tensor, **kwargs: Any
    ) -> torch.Tensor:
        """The layer's output: result + s B N A dropout(x)."""
        hidden = module.lora_dropout[active_adapter](x)
        return add_update(
            result,
            hidden,
            module.lora_A[active_adapter].weight,
            module.lora_N[active_adapter].weight,
            module.lora_B[active_adapter].weight,
            module.scaling[active_adapter],
            module.core_order[active_adapter],
        )

    @staticmethod
    def merge_safe(module: StructuredLinear, active_adapter: str, orig_weight: torch.Tensor) -> torch.Tensor:
        """A new tensor W + s B N A."""
        return orig_weight + module.get_delta_weight(active_adapter).to(orig_weight.dtype)

    @staticmethod
    def merge_unsafe(module: StructuredLinear, active_adapter: str, orig_weight: torch.Tensor) -> None:
        """W += s B N A, in place."""
        orig_weight.data += module.get_delta_weight(active_adapter).to(orig_weight.dtype)

    @staticmethod
    def unmerge(module: StructuredLinear, active_adapter: str, orig_weight: torch.Tensor) -> torch.Tensor:
        """A new tensor W - s B N A."""
        return orig_weight - module.get_delta_weight(active_adapter).to(orig_weight.dtype)


class NystromVariant(StructuredVariant):
    """NLoRA: starts from the leading rows and columns of the weight, as the paper's code does."""

    @staticmethod
    def init(module: StructuredLinear, adapter_name: str, config: LoraConfig, **kwargs: Any) -> None:
        """A = W[:r], N = W[:r, :r], B = W[:, :r]; nothing on the meta device: the values are about to be loaded."""
        StructuredVariant.init(module, adapter_name, config, **kwargs)
        rank = module.r[adapter_name]
        factors = (module.lora_A[adapter_name], module.lora_N[adapter_name], module.lora_B[adapter_name])
        if factors[0].weight.is_meta:
            return
        weight_OI = reader(module.get_base_layer().weight)  # ZeRO-3 may have divided it: only the slices are sent
        a_RI, b_OR = weight_OI.rows(range(rank)), weight_OI.columns(range(rank))
        with torch.no_grad():
            for factor, start in zip(factors, (a_RI, a_RI[:, :rank], b_OR), strict=True):
                factor.weight.copy_(start)


class CoreOnlyVariant(NystromVariant):
    """IntTune: as NLoRA, with A and B frozen. Autograd then keeps of each token only A x (R numbers), not x."""

    @staticmethod
    def init(module: StructuredLinear, adapter_name: str, config: LoraConfig, **kwargs: Any) -> None:
        """As NLoRA."""
        NystromVariant.init(module, adapter_name, config, **kwargs)
        _register_frozen_peft_weight(module, adapter_name, "lora_A")
        _register_frozen_peft_weight(module, adapter_name, "lora_B")


class FoldedFactor:
    """N A in the place of A in PEFT's DoRA layer, which calls it on inputs and asks for its width."""

    def __init__(self, module: StructuredLinear, adapter: str) -> None:
        self.weight = module.folded_weight(adapter)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return linear(x, self.weight)


class StructuredDoraVariant(DoraLinearVariant):
    """SLoRA with DoRA's row lengths: PEFT's DoRA on the folded factor."""

    START: type[StructuredVariant] = StructuredVariant

    @classmethod
    def init(cls, module: StructuredLinear, adapter_name: str, **kwargs: Any) -> None:
        """The factors as without DoRA, then the lengths of W + s B N A."""
        cls.START.init(module, adapter_name, **kwargs)
        if not module.lora_magnitude_vector:
            module.adapter_layer_names = (*module.adapter_layer_names, "lora_magnitude_vector")
        layer = DoraLinearLayer(fan_in_fan_out=False)
        layer.update_layer(
            base_layer=module.get_base_layer(),
            lora_A=module.folded_weight(adapter_name),
            lora_B=module.lora_B[adapter_name].weight,
            scaling=module.scaling[adapter_name],
        )
        module.lora_magnitude_vector[adapter_name] = layer

    @staticmethod
    def forward(
        module: StructuredLinear, active_adapter: str, x: torch.Tensor, result: torch.Tensor, **kwargs: Any
    ) -> torch.Tensor:
        """The layer's output: m / ||W + s B N A|| times what it would be without DoRA."""
        dropout = module.lora_dropout[active_adapter]
        keeps_input = isinstance(dropout, nn.Identity) or not module.training
        return result + module.lora_magnitude_vector[active_adapter](
            x if keeps_input else dropout(x),
            lora_A=FoldedFactor(module, active_adapter),
            lora_B=module.lora_B[active_adapter],
            scaling=module.scaling[active_adapter],
            base_layer=module.get_base_layer(),
            base_result=result if keeps_input else None,
            adapter_name=active_adapter,
        )


class NystromDoraVariant(StructuredDoraVariant):
    """NLoRA with DoRA's row lengths."""

    START = NystromVariant


def add_update(
    result: torch.Tensor,
    x: torch.Tensor,
    a_RI: torch.Tensor,
    n_RR: torch.Tensor,
    b_OR: torch.Tensor,
    scale: float,
    order: Order = "BNA",
) -> torch.Tensor:
    """The sum result [..., O] + s B N A x with the cheapest order of products.

    N costs R^2 a token when applied on its own, and R^2 min(O, I) a call when folded into its narrower neighbour; a
    batch of more tokens than that folds it, unless only N is trained (folding would make autograd keep x).
    """
    num_tokens = x.numel() // x.shape[-1]
    narrow = min(a_RI.shape[1], b_OR.shape[0])
    if order == "BAN":
        hidden = linear(x, fold(a_RI, n_RR, order))
    elif num_tokens <= narrow or not a_RI.requires_grad:
        hidden = linear(linear(x, a_RI), n_RR)
    elif narrow == a_RI.shape[1]:
        hidden = linear(x, n_RR @ a_RI)
    else:
        hidden, b_OR = linear(x, a_RI), b_OR @ n_RR
    hidden = hidden if scale == 1.0 else hidden * scale
    flat = torch.addmm(result.flatten(0, -2).to(hidden.dtype), hidden.flatten(0, -2), b_OR.T)
    return flat.view_as(result)
