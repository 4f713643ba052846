"""The loss on the validation split, at the start, every so many steps and at the end, and what follows from it."""

from typing import Any

import numpy as np
import torch
from deepspeed import comm

from stages._training.batches import TokenFile
from stages._training.checkpoints import Position
from stages._training.objective import Objective
from stages._training.passes import Passes
from stages._training.spec import TrainSpec
from stages.train import Config


class Evaluation:
    """The validation split, which may not be there. Every process must ask alike."""

    def __init__(self, engine: Any, objective: Objective, spec: TrainSpec) -> None:
        file = spec.tokens_dir / "validation.safetensors"
        self._tokens = TokenFile(file) if file.exists() else None
        self._engine, self._objective, self._spec = engine, objective, spec

    @torch.no_grad()
    def loss(self) -> float | None:
        """Nats per target over the split; None if there is none."""
        if self._tokens is None:
            return None
        rows, passes = np.arange(len(self._tokens)), Passes(self._tokens, self._spec)
        self._engine.eval()
        total = torch.zeros((), dtype=torch.float64, device=self._engine.device)
        for own_rows in passes.own(rows):
            batch = passes.batch(own_rows if len(own_rows) else rows[:1])  # ZeRO-3 needs all to go through the model
            loss = self._objective.summed_loss(self._engine, batch)
            total += loss.double() if len(own_rows) else 0.0
        comm.all_reduce(total)
        return float(total) / max(1, self._tokens.num_targets(rows))


def is_due(config: Config, step: int, num_steps: int) -> bool:
    """Whether to evaluate after so many steps: the last one counts, whatever the interval."""
    every = config.evaluate_every_steps
    return every is not None and (step % every == 0 or step == num_steps)


def judged(position: Position, loss: float, config: Config) -> Position:
    """The position with its validation loss, and what that means for the best one and for patience."""
    best, stopping = position.best_validation_loss, config.early_stopping
    is_best = best is None or loss < best
    is_enough = best is None or loss < best - (stopping.min_improvement if stopping else 0.0)
    return position.model_copy(
        update={
            "validation_loss": loss,
            "best_validation_loss": loss if is_best else best,
            "best_step": position.step if is_best else position.best_step,
            "evaluations_without_improvement": 0 if is_enough else position.evaluations_without_improvement + 1,
        }
    )


def is_out_of_patience(config: Config, position: Position) -> bool:
    """Whether early stopping ends the run here."""
    stopping = config.early_stopping
    return stopping is not None and position.evaluations_without_improvement >= stopping.patience
