"""The loop of one training process: steps, evaluation, checkpoints, and an ordered stop."""

import math
import signal
import sys
import time
from typing import NamedTuple

import numpy as np
import torch
from deepspeed import comm

from pipeline.errors import StepFailed, UserError
from stages._training import checkpoints, evaluation, result
from stages._training import engine as engines
from stages._training.batches import Order, TokenFile
from stages._training.blame import not_finite_alone
from stages._training.checkpoints import Position
from stages._training.deepspeed_config import LOWEST_LOSS_SCALE
from stages._training.evaluation import Evaluation
from stages._training.failures import peak_memory_bytes
from stages._training.layout import evaluation_problems
from stages._training.objective import Objective
from stages._training.packed_attention import attend_within_samples
from stages._training.part import training_part
from stages._training.passes import Passes
from stages._training.records import Records, Utilisation
from stages._training.schedule import learning_rate_factor, num_warmup_steps
from stages._training.spec import CHECKPOINTS_DIR, STOP_FILE, TrainSpec

CHECKPOINT_SECONDS = 60.0
"""At most this much work is lost, unless the recipe counts checkpoints in steps."""


class Agreed(NamedTuple):
    """What the processes tell each other once a step, the same on all of them."""

    loss: float
    """Nats per target of the global batch."""
    save: bool
    """After this step; true if it is for one process."""
    stop: bool
    peak_memory_bytes: list[int]
    """Of each process."""


class Loop:
    """One training run as one process lives it."""

    def __init__(self, spec: TrainSpec) -> None:
        self.spec = spec
        self.config = spec.config
        self.out = spec.out
        self.is_first = comm.get_rank() == 0
        self.train = TokenFile(spec.tokens_dir / "train.safetensors")
        self.order = Order(
            self.train.lengths, self.config.global_batch_size, self.config.seed, self.config.group_by_length
        )
        self.num_steps = min(self.config.num_epochs * self.order.steps_per_epoch, self.config.max_steps or sys.maxsize)
        self.num_warmup = num_warmup_steps(self.config, self.num_steps)
        self.passes = Passes(self.train, spec)
        self.engine = engines.build(spec)
        self.part = training_part(spec, self.engine, self.num_steps)
        self.objective = Objective(self.engine.module)
        if self.config.packing:
            sample = torch.from_numpy(self.train.input_ids[: self.train.lengths[0]])
            attend_within_samples(self.engine, self.objective, sample)
        self.evaluation = Evaluation(self.engine, self.objective, spec)
        self.records = Records(spec, self.num_steps, self.is_first)
        self.utilisation = Utilisation(spec, self.engine.module, comm.get_world_size())
        self.checkpoints_dir = self.out / CHECKPOINTS_DIR
        self.keep = checkpoints.Keep(spec.keep_last, spec.keep_best)
        self.saved_at = time.monotonic()
        self.asked_to_stop = False
        self.can_resume = self.config.offload_optimizer != "nvme"
        """DeepSpeed loads neither the masters nor the count of steps of what it had put into files."""

    def run(self) -> None:
        """Train to the end, or until asked to stop; then there is a checkpoint and no result."""
        for number in (signal.SIGTERM, signal.SIGUSR2):
            signal.signal(number, self._ask_to_stop)
        position = checkpoints.resume(self.engine, self.part, self.checkpoints_dir)
        if position.validation_loss_start is None:
            position = position.model_copy(update={"validation_loss_start": self.evaluation.loss()})
        if problems := evaluation_problems(self.config, position.validation_loss_start is not None):
            raise UserError(*problems)
        self.records.resume(position.step)
        try:
            is_stopped, position = self._steps_from(position)
            if not is_stopped:
                self._finish(position)
            elif self.is_first:
                (self.out / STOP_FILE).touch()  # it may have been asked by a signal that the launcher did not get
        finally:
            self.records.close()

    def _steps_from(self, position: Position) -> tuple[bool, Position]:
        """(was it asked to stop, where it is)."""
        while position.step < self.num_steps and not evaluation.is_out_of_patience(self.config, position):
            position, agreed = self.step(position)
            is_best = self.config.result == "best" and position.best_step == position.step
            if self.can_resume and (agreed.save or agreed.stop or is_best):
                checkpoints.save(self.engine, self.part, position, self.checkpoints_dir, self.keep)
                self.saved_at = time.monotonic()
            if agreed.stop:
                return True, position
        return False, position

    def step(self, position: Position) -> tuple[Position, Agreed]:
        """One step of the optimizer over one global batch, and an evaluation if it is due.

        Raises StepFailed if the loss is not finite.
        """
        began = time.perf_counter()
        rows = self.order.rows(position.step)
        scheduled = learning_rate_factor(position.step, self.num_steps, self.num_warmup, self.config.schedule)
        rate = self.config.learning_rate * scheduled * self.part.rate_factor(position.step)
        engines.set_learning_rate(self.engine, rate)
        agreed, norm = self._optimize(rows, position.step)
        self.part.step_done(position.step, norm)
        seconds = time.perf_counter() - began
        num_tokens = int(self.train.lengths[rows].sum())
        after = self._evaluated(position.after_step(num_tokens, seconds))
        measured = {
            "loss": agreed.loss,
            "learning_rate": rate,
            "grad_norm": norm,
            "tokens_per_second": num_tokens / seconds,
            "seconds": seconds,
            "peak_memory_bytes": agreed.peak_memory_bytes,
            **self.utilisation.of(self.train.lengths[rows], self.train.num_targets(rows), seconds),
        }
        if self.config.dtype == "float16":
            measured["loss_scale"] = engines.loss_scale(self.engine)
        self.records.step(after.step, measured, after.validation_loss)
        return after, agreed

    def _optimize(self, rows: np.ndarray, step: int) -> tuple[Agreed, float]:
        """One step of the optimizer: what the processes agreed on, and the gradient's norm.

        Where a gradient overflows in float16, DeepSpeed lowers its loss scale without a step, and the batch is
        repeated: none is lost, and the schedule stays what it is.
        """
        while True:
            agreed = self._agree(self._accumulate(rows), step)
            self._require_finite("loss", agreed.loss, rows, step)
            self.part.gradients_complete(step)
            norm = engines.finish_step(self.engine)
            if math.isfinite(norm) or not self._has_lower_loss_scale():
                self._require_finite("gradient's norm", norm, rows, step)
                return agreed, norm

    def _has_lower_loss_scale(self) -> bool:
        is_dynamic = self.config.dtype == "float16" and self.config.loss_scale == "dynamic"
        return is_dynamic and engines.loss_scale(self.engine) > LOWEST_LOSS_SCALE

    def _accumulate(self, rows: np.ndarray) -> torch.Tensor:
        """Go backward through this process's share; its part of the loss, on the device.

        Every token weighs the same wherever it lies: each pass is divided by the targets of the whole global batch, and
        multiplied by the number of processes because DeepSpeed averages gradients over them.
        """
        num_targets = max(1, self.train.num_targets(rows))
        world = comm.get_world_size()
        total = torch.zeros((), dtype=torch.float64, device=self.engine.device)
        passes = self.passes.own(rows)
        self.engine.train()
        for number, own_rows in enumerate(passes, start=1):
            self.engine.set_gradient_accumulation_boundary(number == len(passes))  # packed steps differ in their passes
            loss = self.objective.summed_loss(self.engine, self.passes.batch(own_rows)) / num_targets
            total += loss.detach()
            self.engine.backward(loss * world, scale_wrt_gas=False)
            if number < len(passes):
                self.engine.step()
        return total

    def _agree(self, loss: torch.Tensor, step: int) -> Agreed:
        """Sum the loss and the wishes of all processes in one exchange: the only time a step waits for the device."""
        rank, done = comm.get_rank(), step + 1
        every = self.config.checkpoint_every_steps
        due = done % every == 0 if every else time.monotonic() - self.saved_at > CHECKPOINT_SECONDS
        stop = self.asked_to_stop or (self.is_first and (self.out / STOP_FILE).exists())
        peaks = [0.0] * comm.get_world_size()
        peaks[rank] = float(peak_memory_bytes(self.spec.device))
        own = torch.tensor([float(due and done < self.num_steps), float(stop), *peaks], dtype=torch.float64)
        sums = torch.cat([loss[None], own.to(loss.device)])
        comm.all_reduce(sums)
        total, num_saves, num_stops, *all_peaks = sums.tolist()
        return Agreed(total, num_saves > 0, num_stops > 0, [int(peak) for peak in all_peaks])

    def _evaluated(self, position: Position) -> Position:
        """The position with its validation loss, where that is due."""
        if not evaluation.is_due(self.config, position.step, self.num_steps):
            return position
        loss = self.evaluation.loss()
        return position if loss is None else evaluation.judged(position, loss, self.config)

    def _blame(self, rows: np.ndarray) -> str:
        bad = not_finite_alone(self.engine, self.objective, self.passes, rows)
        if len(bad) == len(rows):
            return "so is the loss of each alone: it is the weights, not the samples"
        return f"those whose own loss is not finite: {bad}" if bad else "each alone has a finite loss"

    def _require_finite(self, what: str, value: float, rows: np.ndarray, step: int) -> None:
        """`value` is the same on all processes. Raises StepFailed with the samples and where to go on from."""
        if math.isfinite(value):
            return
        blame = self._blame(rows) if what == "loss" else "their loss is finite"
        newest = checkpoints.newest(self.checkpoints_dir)
        kept = f"the last good checkpoint is {newest[0]}" if newest else "there is no checkpoint yet"
        raise StepFailed(
            f"train: the {what} of step {step + 1} is {value} on samples {rows.tolist()} ({blame}); {kept}; "
            f"use a lower learning_rate (got {self.config.learning_rate}) or look at these samples"
        )

    def _ask_to_stop(self, _number: int, _frame: object) -> None:
        self.asked_to_stop = True

    def _finish(self, position: Position) -> None:
        if self.config.result == "best":
            checkpoints.load_best(self.engine, self.part, position, self.checkpoints_dir)
            end = position.best_validation_loss
        else:
            end = self.evaluation.loss() if position.validation_loss is None else position.validation_loss
        engines.save(self.engine, self.part, self.spec)
        memory = torch.tensor(peak_memory_bytes(self.spec.device), dtype=torch.float64, device=self.engine.device)
        comm.all_reduce(memory)
        if self.is_first:
            result.write(self.spec, self.engine.module, position, self.records, end, int(memory))
