"""Values of `init_lora_weights` in adapter_config.json that stand for forms that PEFT does not have.

PEFT without our layer refuses them when it loads such an adapter, instead of dropping lora_N unnoticed or adding the
adapter to a base it does not belong to.
"""

from stages.adapters.base import SUBTRACTED

S_LORA = "s_lora"
N_LORA = "n_lora"
INT_TUNE = "int_tune"
OURS = (S_LORA, N_LORA, INT_TUNE, SUBTRACTED)
