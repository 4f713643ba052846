"""A DeepSpeed engine around a PeftModel: the model, its adapter, the optimizer, and how they are saved."""

import contextlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import deepspeed
import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM
from transformers.integrations.deepspeed import HfDeepSpeedConfig

from stages._adaptation.quantization import Quantization
from stages._adaptation.start import read_adapter
from stages._peft.config import CONFIG_FILE, WEIGHTS_FILE
from stages._peft.load import load_adapter, subtract_update
from stages._training import acceleration, full, optimizers, whole
from stages._training.deepspeed_config import deepspeed_config
from stages._training.layout import Layout
from stages._training.spec import TrainSpec, WorkerSpec
from stages.adapters.base import AdapterConfig
from stages.adapters.training import TrainingPart


def start_processes(spec: WorkerSpec) -> None:
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


def leave_processes() -> None:
    """End the connections together: threads of a backend that still wait for another process abort this one's exit."""
    deepspeed.comm.barrier()
    deepspeed.comm.destroy_process_group()


def settings(spec: WorkerSpec) -> dict[str, Any]:
    """DeepSpeed's configuration for these workers."""
    shared = Layout(deepspeed.comm.get_world_size(), spec.accumulation, spec.per_device_batch_size)
    return deepspeed_config(spec.config, shared, spec.device, spec.offload_dir)


def build(spec: TrainSpec) -> Any:
    """The engine, its module a PeftModel at its start: W (less the start, where it is subtracted) + s B N A."""
    chosen = settings(spec)
    model = load_model(spec, chosen)
    if spec.config.dtype == "float16":
        _round_trained(model)
    optimizer = optimizers.build(model, spec.config, read_adapter(spec.adapter_dir))
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=chosen, dist_init_required=False)
    return engine


def _round_trained(model: torch.nn.Module) -> None:
    """Put the factors, which PEFT keeps in float32, into float16, as DeepSpeed itself does up to stage 2.

    At stage 3 it does not, and scales the loss only if what is trained is in float16. Masters stay in float32.
    """
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.half()


def load_model(spec: TrainSpec, chosen: dict[str, Any]) -> Any:
    """A PeftModel with the adapter at its start; for full fine-tuning, the base with everything to be trained."""
    method = read_adapter(spec.adapter_dir)
    with partitioning(chosen):
        base = load_base(spec)
        if not isinstance(method, AdapterConfig):
            return full.trainable(base, spec.model_dir)
        model = load_adapter(base, spec.adapter_dir, trainable=True)
        if method.subtracts_start:
            subtract_update(model)
        if spec.config.quantize:
            from stages._peft.quantize import quantize_base  # imports bitsandbytes, which takes seconds

            quantize_base(model, spec.config.quantize, spec.device)
        return model


@contextlib.contextmanager
def partitioning(chosen: dict[str, Any]) -> Iterator[None]:
    """Inside, at ZeRO stage 3, each process loads and adapts its own part of a model only."""
    alive = HfDeepSpeedConfig(chosen) if chosen["zero_optimization"]["stage"] == 3 else None
    yield
    del alive  # transformers and PEFT ask for it while it exists


def load_base(spec: WorkerSpec) -> Any:
    """The base in the dtype and with the attention of the computation."""
    base = AutoModelForCausalLM.from_pretrained(
        spec.model_dir,
        dtype=getattr(torch, spec.config.dtype),
        attn_implementation=acceleration.attention(spec.config, spec.device),
        local_files_only=True,
    )
    base.config.use_cache = False
    acceleration.prepare(base, spec.config)
    return base


def set_learning_rate(engine: Any, rate: float) -> None:
    """For the step to come."""
    for group in engine.optimizer.param_groups:
        group["lr"] = rate * group[optimizers.RATE_FACTOR]


def finish_step(engine: Any) -> float:
    """Let the optimizer step; the gradient's norm before clipping, infinite if it did not step because of that norm."""
    plain = _plain_gradient_norm(engine) if engine.zero_optimization_stage() == 0 else 0.0
    engine.step()
    if not engine.was_step_applied():
        return math.inf
    reported = engine.get_global_grad_norm()
    return plain if reported is None else float(reported)


def loss_scale(engine: Any) -> float:
    """What the loss of the next pass is multiplied by: 1 but in float16."""
    return float(engine.optimizer.loss_scale) if engine.fp16_enabled() else 1.0


def _plain_gradient_norm(engine: Any) -> float:
    """For the one case in which DeepSpeed reports none: a plain optimizer over whole gradients."""
    gradients = [parameter.grad for parameter in engine.module.parameters() if parameter.grad is not None]
    return float(torch.nn.utils.get_total_norm(gradients))


def save(engine: Any, part: TrainingPart, spec: TrainSpec) -> None:
    """Write what was trained, in float32. Every process must call it; rank 0 writes."""
    if isinstance(engine.module, PeftModel):
        save_adapter(engine, part, spec.adapter_dir, spec.out_dir)
        if spec.config.quantize:
            Quantization(kind=spec.config.quantize, dtype=spec.config.dtype).write(spec.out_dir)
    else:
        full.save_model(engine.module, spec.model_dir, spec.out_dir)


def save_adapter(engine: Any, part: TrainingPart, start_dir: Path, out_dir: Path) -> None:
    """Write adapter_model.safetensors in float32 and adapter_config.json. Every process must call it; rank 0 writes."""
    factors = {name: whole.value(each) for name, each in engine.module.named_parameters() if ".lora_" in name}
    if deepspeed.comm.get_rank() == 0:
        trained = get_peft_model_state_dict(engine.module, state_dict=factors)
        tensors, config = part.final(trained, json.loads((start_dir / CONFIG_FILE).read_text()))
        save_file({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, out_dir / WEIGHTS_FILE)
        (out_dir / CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    deepspeed.comm.barrier()
