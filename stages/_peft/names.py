"""Values of `init_lora_weights` in adapter_config.json that stand for three-factor methods.

PEFT without our layer refuses them when it loads such an adapter, instead of dropping lora_N unnoticed.
"""

S_LORA = "s_lora"
N_LORA = "n_lora"
INT_TUNE = "int_tune"
STRUCTURED = (S_LORA, N_LORA, INT_TUNE)
