"""Which samples of a batch are to blame when its loss is not a number, or infinite."""

from typing import Any

import numpy as np
import torch
from deepspeed import comm

from stages._training.objective import Objective
from stages._training.passes import Passes


@torch.no_grad()
def not_finite_alone(engine: Any, objective: Objective, passes: Passes, rows: np.ndarray) -> list[int]:
    """The rows whose own loss is not finite, each taken through the model by itself, shared out among the processes.

    Every process must call it: each goes through the model equally often, as ZeRO-3 needs it.
    """
    engine.eval()
    world = comm.get_world_size()
    is_bad = torch.zeros(len(rows), device=engine.device)
    for first in range(0, len(rows), world):
        number = (first + comm.get_rank()) % len(rows)
        loss = objective.summed_loss(engine, passes.batch(rows[number : number + 1]))
        is_bad[number] += 0.0 if torch.isfinite(loss) else 1.0
    comm.all_reduce(is_bad)
    return [int(row) for row, bad in zip(rows, is_bad.tolist(), strict=True) if bad]
