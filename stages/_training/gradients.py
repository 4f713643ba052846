"""Estimate dL/dW of chosen weights, L being the objective of training: what the workers of the init stage do.

The mean over batches of the gradient of each batch's loss per target, as PEFT's `preprocess_loraga` has it for one
backward pass a batch; the passes of one accumulation step of DeepSpeed, of which the optimizer never steps.
"""

import json
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import deepspeed
import numpy as np
import torch
from deepspeed import comm

from stages._training import engine as engines
from stages._training import whole
from stages._training.batches import Order, TokenFile, share
from stages._training.objective import Objective
from stages._training.spec import GRADIENTS_FILE, RESULT_FILE, GradientSpec
from stages._weights.streaming import StreamWriter


class Pass(NamedTuple):
    """One forward pass of one process."""

    rows: np.ndarray
    weight: float
    """What its summed loss counts for in the mean over batches of the mean over targets; 0 where rows ran out."""


def estimate(spec: GradientSpec) -> None:
    """Write each weight's gradient [O, I], in float32, as one file of tensors named as the weights, and the result."""
    began = time.perf_counter()
    tokens = TokenFile(spec.tokens_dir / "train.safetensors")
    passes = list(_passes(spec, tokens))
    engine = _build(spec)
    loss = _accumulate(engine, tokens, passes, spec)
    _write(engine, spec)
    if comm.get_rank() == 0:
        result = {"gradient_loss": loss, "gradient_seconds": time.perf_counter() - began}
        (spec.out / RESULT_FILE).write_text(json.dumps(result))


def _passes(spec: GradientSpec, tokens: TokenFile) -> Iterator[Pass]:
    """This process's share of every batch; all processes have equally many."""
    size = spec.config.global_batch_size
    order = Order(tokens.lengths, size, spec.config.seed, group_by_length=False)
    for number in range(spec.num_batches):
        batch = order.rows(number)
        weight = 1 / (max(1, tokens.num_targets(batch)) * spec.num_batches)
        for rows in share(batch, tokens.lengths, spec.per_device_batch_size, comm.get_rank(), comm.get_world_size()):
            yield Pass(rows, weight) if len(rows) else Pass(batch[:1], 0.0)  # ZeRO-3 needs all to go through the model


def _build(spec: GradientSpec) -> Any:
    """An engine around the base, of which only the chosen weights require a gradient."""
    settings = engines.settings(spec) | {"zero_allow_untested_optimizer": True}
    with engines.partitioning(settings):
        model = engines.load_base(spec).requires_grad_(False)
    weights = [weight.requires_grad_() for weight in _weights(model, spec).values()]
    optimizer = torch.optim.SGD(weights, lr=0.0)  # DeepSpeed asks for one; this one keeps no state
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings, dist_init_required=False)
    return engine


def _accumulate(engine: Any, tokens: TokenFile, passes: list[Pass], spec: GradientSpec) -> float:
    """Go backward through all passes; the mean loss over the batches."""
    objective = Objective(engine.module)
    total = torch.zeros((), dtype=torch.float64)
    engine.train()
    for number, (rows, weight) in enumerate(passes, start=1):
        loss = objective.summed_loss(engine, tokens.batch(rows)) * weight
        total += loss.detach().double().cpu()
        engine.backward(loss * comm.get_world_size(), scale_wrt_gas=False)  # DeepSpeed averages over processes
        if number < len(passes):
            engine.step()
        if comm.get_rank() == 0:
            spec.out.progress(number, len(passes))
    there = total.to(engine.device)
    comm.all_reduce(there)
    return float(there)


def _write(engine: Any, spec: GradientSpec) -> None:
    """One weight's gradient at a time; every process takes part, the first one writes."""
    weights = _weights(engine.module, spec)
    writer = StreamWriter(spec.out / GRADIENTS_FILE, weights) if comm.get_rank() == 0 else None
    for name, weight in weights.items():
        gradient_OI = whole.gradient(weight)
        if writer is not None:
            writer.add(name, gradient_OI)
    if writer is not None:
        writer.close()


def _weights(model: torch.nn.Module, spec: GradientSpec) -> dict[str, torch.nn.Parameter]:
    """Name -> parameter, in the spec's order."""
    parameters = dict(model.named_parameters())
    return {f"{module}.weight": parameters[f"{module}.weight"] for module in spec.modules}
