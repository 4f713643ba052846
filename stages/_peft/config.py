"""The PEFT configuration of an adapter: PEFT's own where it has the form, its extension where it has not."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import AdaLoraConfig, LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from pipeline.errors import UserError
from stages._peft.layer import StructuredLinear
from stages._peft.names import OURS
from stages._weights.matrix import TORCH_DTYPE
from stages.adapters.base import AdapterConfig

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"

_TASKS = {"ForCausalLM": "CAUSAL_LM", "ForSequenceClassification": "SEQ_CLS"}


@dataclass
class StructuredLoraConfig(LoraConfig):
    """LoraConfig whose linear layers may have a core, when `init_lora_weights` is one of `names.OURS`."""

    core_order: str = "BNA"
    """`BNA` or `BAN`, see `stages.adapters.structured`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._register_custom_module({nn.Module: structured_layer})

    @classmethod
    def from_peft_type(cls, **values: Any) -> "StructuredLoraConfig":
        """This class, where PEFT looks its own up by `peft_type`."""
        return cls(**values) if values.get("peft_type", "LORA") == "LORA" else super().from_peft_type(**values)


def structured_layer(target: nn.Module, adapter_name: str, config: LoraConfig, **options: Any) -> nn.Module | None:
    """Our layer around a linear one; None, and so PEFT's own layers, around a quantised one or any other.

    Quantised weights are parameters of a class or a dtype of their own. Raises UserError where only ours would do.
    """
    base = target.get_base_layer() if isinstance(target, BaseTunerLayer) else target
    dtype = base.weight.dtype if type(getattr(base, "weight", None)) is nn.Parameter else None
    if isinstance(base, nn.Linear) and dtype in TORCH_DTYPE.values():
        return StructuredLinear(target, adapter_name, config=config, **options)
    if config.init_lora_weights in OURS:
        raise UserError(
            f"{options.get('target_name')}: init_lora_weights={config.init_lora_weights!r} takes linear layers of "
            f"float weights, found {type(base).__name__} of {dtype or 'another kind'}; leave it out of target_modules"
        )
    return None


def peft_config(adapter: AdapterConfig, modules: list[str], task_type: str | None = "CAUSAL_LM") -> LoraConfig:
    """The configuration of `adapter` on the modules named."""
    alphas = {} if adapter.alpha is not None else adapter.rank_pattern  # alpha = rank, where nothing else is said
    return config_of(
        {
            "task_type": task_type,
            "r": adapter.rank,
            "lora_alpha": adapter.rank if adapter.alpha is None else adapter.alpha,
            "lora_dropout": adapter.dropout,
            "target_modules": modules,
            "rank_pattern": dict(adapter.rank_pattern),
            "alpha_pattern": adapter.alpha_pattern
            | {key: alphas[key] for key in alphas if key not in adapter.alpha_pattern},
            "bias": "none",
            **adapter.peft_options(),
        }
    )


def task_type_of(model_dir: Path) -> str | None:
    """PEFT's name for what a model is for, from its config.json; None for what PEFT has no special class for."""
    architectures = json.loads((model_dir / "config.json").read_text()).get("architectures") or [""]
    return next((task for suffix, task in _TASKS.items() if architectures[0].endswith(suffix)), None)


def config_of(values: dict[str, Any]) -> LoraConfig:
    """The right class for the values of an adapter_config.json."""
    if values.get("peft_type") == "ADALORA":
        return AdaLoraConfig(**values)
    return StructuredLoraConfig(**values) if values.get("init_lora_weights") in OURS else LoraConfig(**values)


def write_config(config: LoraConfig, adapter_dir: Path) -> None:
    """adapter_config.json as PEFT writes it, with its sets sorted so that equal configurations are equal files."""
    values = {key: sorted(value) if isinstance(value, set) else value for key, value in config.to_dict().items()}
    (adapter_dir / CONFIG_FILE).write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")


def read_config(adapter_dir: Path) -> LoraConfig:
    """The configuration in an adapter's folder."""
    return config_of(json.loads((adapter_dir / CONFIG_FILE).read_text()))
