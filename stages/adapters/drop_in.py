"""For users of the paper's own fork of PEFT (https://github.com/TracyGuo2001/NLoRA): its `LoraConfig` on released PEFT.

One import changes in their scripts, and one argument where an adapter is loaded (released PEFT chooses its own class):

    from stages.adapters.drop_in import LoraConfig

    model = get_peft_model(base, LoraConfig(..., init_lora_weights="n_lora"))  # or "s_lora", or what PEFT has
    model = PeftModel.from_pretrained(base, folder, config=LoraConfig.from_pretrained(folder))

As in the fork, "n_lora" starts at W + s B N A with A = W[:r], N = W[:r, :r], B = W[:, :r], and "s_lora" with A and N by
Kaiming's rule and B = 0; s = lora_alpha / r.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stages._peft.config import StructuredLoraConfig as LoraConfig

__all__ = ["LoraConfig"]


def __getattr__(name: str) -> Any:
    """`LoraConfig`, imported when it is asked for: the methods beside this file are listed without PEFT."""
    if name != "LoraConfig":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from stages._peft.config import StructuredLoraConfig

    return StructuredLoraConfig
