"""A trained parameter's value, gradient and optimizer state, each whole and in float32, at any ZeRO stage.

DeepSpeed keeps a float32 master of each trained parameter, cut up among the processes, and overwrites the working copy
with it at every step: what is to last must be written to both. Reading is a collective operation: every process does it
for the same parameters in the same order. Writing takes the same whole tensor on every process.
"""

from typing import Any

import deepspeed
import torch
from deepspeed import comm
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_grad,
    safe_get_full_optimizer_state,
    safe_set_full_fp32_param,
    safe_set_full_grad,
    safe_set_full_optimizer_state,
    safe_set_local_fp32_param,
    safe_set_local_grad,
    safe_set_local_optimizer_state,
)

from stages._weights.partitioned import is_partitioned


def value(parameter: torch.nn.Parameter) -> torch.Tensor:
    """A copy of the master value; of a frozen parameter, which has no master, of its value."""
    if parameter.requires_grad:
        master = safe_get_full_fp32_param(parameter)
        if master is not None:
            return master.clone()
    with deepspeed.zero.GatheredParameters([parameter], enabled=is_partitioned(parameter)):
        return parameter.detach().float().clone()


@torch.no_grad()
def set_value(parameter: torch.nn.Parameter, value: torch.Tensor) -> None:
    """Write the master and the working copy."""
    if is_partitioned(parameter):
        safe_set_local_fp32_param(parameter, _own_part(parameter, value))
        with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
            if comm.get_rank() == 0:
                parameter.copy_(value)
    else:
        safe_set_full_fp32_param(parameter, value)
        parameter.copy_(value)


def gradient(parameter: torch.nn.Parameter) -> torch.Tensor:
    """A copy of the mean over all processes, not clipped; there is one from the last backward pass of a step until the
    optimizer steps.
    """
    return safe_get_full_grad(parameter).float().clone()


def set_gradient(parameter: torch.nn.Parameter, value: torch.Tensor) -> None:
    """Replace it, before the optimizer steps."""
    if is_partitioned(parameter):
        safe_set_local_grad(parameter, _own_part(parameter, value))
    else:
        safe_set_full_grad(parameter, value)


def optimizer_state(engine: Any, parameter: torch.nn.Parameter, key: str) -> torch.Tensor:
    """A copy of one of the optimizer's running averages, such as `exp_avg`; there are some after the first step."""
    if engine.zero_optimization_stage() == 0 and not hasattr(parameter, "_hp_mapping"):
        return engine.basic_optimizer.state[parameter][key].clone()
    return safe_get_full_optimizer_state(parameter, key).clone()


def set_optimizer_state(engine: Any, parameter: torch.nn.Parameter, key: str, value: torch.Tensor) -> None:
    """Replace one of them."""
    if is_partitioned(parameter):
        safe_set_local_optimizer_state(parameter, _own_part(parameter, value), key)
    elif hasattr(parameter, "_hp_mapping"):
        safe_set_full_optimizer_state(parameter, value, key)
    else:
        engine.basic_optimizer.state[parameter][key].copy_(value)


def forget_step_count(engine: Any) -> None:
    """Let the optimizer correct its running means for their short history, as at its start."""
    for state in engine.basic_optimizer.state.values():
        state["step"].zero_()


def _own_part(parameter: Any, value: torch.Tensor) -> torch.Tensor:
    """What ZeRO-3 keeps of it in this process: equal parts of the flat tensor, the last filled up with zeros.

    DeepSpeed's own writers of whole tensors read past the end of one that does not divide evenly.
    """
    size = parameter.ds_tensor.numel()
    flat = value.flatten()
    padded = torch.nn.functional.pad(flat, (0, size * comm.get_world_size() - flat.numel()))
    return padded.narrow(0, size * comm.get_rank(), size)
