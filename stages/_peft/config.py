"""The PEFT configuration of an adapter: PEFT's own for two factors, its extension for three."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import LoraConfig
from torch import nn

from stages._peft.layer import StructuredLinear
from stages._peft.names import STRUCTURED
from stages.adapters.base import AdapterConfig

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"


@dataclass
class StructuredLoraConfig(LoraConfig):
    """LoraConfig whose linear layers may have a core, when `init_lora_weights` is one of `names.STRUCTURED`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._register_custom_module({nn.Linear: StructuredLinear})


def peft_config(adapter: AdapterConfig, modules: list[str]) -> LoraConfig:
    """The configuration of `adapter` on the modules named."""
    return config_of(
        {
            "task_type": "CAUSAL_LM",
            "r": adapter.rank,
            "lora_alpha": adapter.rank if adapter.alpha is None else adapter.alpha,
            "lora_dropout": adapter.dropout,
            "target_modules": modules,
            "init_lora_weights": adapter.PEFT_INIT,
            "bias": "none",
        }
    )


def config_of(values: dict[str, Any]) -> LoraConfig:
    """The right class for the values of an adapter_config.json."""
    structured = values.get("init_lora_weights") in STRUCTURED
    return StructuredLoraConfig(**values) if structured else LoraConfig(**values)


def write_config(config: LoraConfig, adapter_dir: Path) -> None:
    """adapter_config.json as PEFT writes it, with its sets sorted so that equal configurations are equal files."""
    values = {key: sorted(value) if isinstance(value, set) else value for key, value in config.to_dict().items()}
    (adapter_dir / CONFIG_FILE).write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")


def read_config(adapter_dir: Path) -> LoraConfig:
    """The configuration in an adapter's folder."""
    return config_of(json.loads((adapter_dir / CONFIG_FILE).read_text()))
