"""A DeepSpeed engine around a PeftModel: the model, its adapter, the optimizer, and how they are saved."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import deepspeed
import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM
from transformers.integrations.deepspeed import HfDeepSpeedConfig

from stages._adaptation.start import read_adapter
from stages._peft.config import WEIGHTS_FILE
from stages._peft.load import load_adapter, subtract_update
from stages._training.spec import TrainSpec
from stages.train import Config


def start_processes(spec: TrainSpec) -> None:
    """Join the other processes.

    Gloo carries what little CPU processes exchange. DeepSpeed's own shared-memory op would be compiled on first use: a
    compiler in the way of training, and a lock file that outlives a kill and makes the next run wait for ever.
    """
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    torch.set_num_threads(spec.num_threads)
    deepspeed.init_distributed(dist_backend="gloo" if spec.device == "cpu" else "nccl", verbose=False)
    if spec.device == "cuda":
        torch.cuda.set_device(deepspeed.comm.get_local_rank())
    torch.manual_seed(spec.config.seed * 1_000_003 + deepspeed.comm.get_rank())


def deepspeed_config(spec: TrainSpec, num_processes: int) -> dict[str, Any]:
    """DeepSpeed's configuration for this recipe."""
    config = spec.config
    return {
        "train_batch_size": spec.per_device_batch_size * spec.accumulation * num_processes,
        "train_micro_batch_size_per_gpu": spec.per_device_batch_size,
        "gradient_accumulation_steps": spec.accumulation,
        "gradient_clipping": config.max_gradient_norm or 0.0,
        "zero_optimization": {"stage": config.zero_stage, "overlap_comm": spec.device == "cuda"},
        "bf16": {"enabled": config.dtype == "bfloat16"},
        "steps_per_print": 10**9,
    }


def build(spec: TrainSpec) -> Any:
    """The engine, its module a PeftModel at its start: W (less the start, where it is subtracted) + s B N A."""
    settings = deepspeed_config(spec, deepspeed.comm.get_world_size())
    model = load_model(spec, settings)
    engine, *_ = deepspeed.initialize(
        model=model, optimizer=adamw(model, spec.config), config=settings, dist_init_required=False
    )
    return engine


def load_model(spec: TrainSpec, settings: dict[str, Any]) -> PeftModel:
    """The PeftModel. At ZeRO stage 3 each process builds its own part of the base only."""
    partitioned = HfDeepSpeedConfig(settings) if spec.config.zero_stage == 3 else None  # alive while loading
    base = AutoModelForCausalLM.from_pretrained(
        spec.model_dir, dtype=getattr(torch, spec.config.dtype), local_files_only=True
    )
    base.config.use_cache = False
    model = load_adapter(base, spec.adapter_dir, trainable=True)
    if read_adapter(spec.adapter_dir).subtracts_start:
        subtract_update(model)
    del partitioned
    return model


def adamw(model: PeftModel, config: Config) -> torch.optim.AdamW:
    """AdamW over the trained factors; its rate is set at each step."""
    return torch.optim.AdamW(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        lr=config.learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
        eps=config.adam_epsilon,
        weight_decay=config.weight_decay,
    )


def set_learning_rate(engine: Any, rate: float) -> None:
    """For the step to come."""
    for group in engine.optimizer.param_groups:
        group["lr"] = rate


def finish_step(engine: Any) -> float:
    """Let the optimizer step; the gradient's norm before clipping."""
    plain = _plain_gradient_norm(engine) if engine.zero_optimization_stage() == 0 else 0.0
    engine.step()
    reported = engine.get_global_grad_norm()
    return plain if reported is None else float(reported)


def _plain_gradient_norm(engine: Any) -> float:
    """For the one case in which DeepSpeed reports none: a plain optimizer over whole gradients."""
    gradients = [parameter.grad for parameter in engine.module.parameters() if parameter.grad is not None]
    return float(torch.nn.utils.get_total_norm(gradients))


def save_adapter(engine: Any, adapter_dir: Path) -> None:
    """Write adapter_model.safetensors in float32. Every process must call it; rank 0 writes."""
    tensors = {name: tensor.clone() for name, tensor in _full_factors(engine)}
    if deepspeed.comm.get_rank() == 0:
        state = get_peft_model_state_dict(engine.module, state_dict=tensors)
        save_file({name: tensor.contiguous().cpu() for name, tensor in state.items()}, adapter_dir / WEIGHTS_FILE)
    deepspeed.comm.barrier()


def _full_factors(engine: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, whole float32 value) of every adapter parameter, trained or frozen."""
    for name, parameter in engine.module.named_parameters():
        if ".lora_" not in name:
            continue
        if parameter.requires_grad and engine.zero_optimization_stage() > 0:
            yield name, deepspeed.utils.safe_get_full_fp32_param(parameter)
        else:
            with deepspeed.zero.GatheredParameters([parameter], enabled=hasattr(parameter, "ds_id")):
                yield name, parameter.detach().float()
