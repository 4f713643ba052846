"""The loop of one training process: steps, validation, metrics, checkpoints, and an ordered stop."""

import json
import math
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import torch
from deepspeed import comm

from pipeline.errors import StepFailed
from stages._training import checkpoints
from stages._training import engine as engines
from stages._training.batches import Order, TokenFile
from stages._training.blame import not_finite_alone
from stages._training.checkpoints import Position
from stages._training.failures import peak_memory_bytes
from stages._training.objective import Objective
from stages._training.packed_attention import attend_within_samples
from stages._training.part import training_part
from stages._training.passes import Passes
from stages._training.schedule import learning_rate_factor
from stages._training.spec import CHECKPOINTS_DIR, METRICS_FILE, RESULT_FILE, STOP_FILE, TrainSpec

CHECKPOINT_SECONDS = 60.0
"""At most this much work is lost, unless the recipe counts checkpoints in steps."""


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
        self.passes = Passes(self.train, spec)
        self.engine = engines.build(spec)
        self.part = training_part(spec, self.engine, self.num_steps)
        self.objective = Objective(self.engine.module)
        if self.config.packing:
            attend_within_samples(
                self.engine, self.objective, torch.from_numpy(self.train.input_ids[: self.train.lengths[0]])
            )
        self.checkpoints_dir = self.out / CHECKPOINTS_DIR
        self.saved_at = time.monotonic()
        self.asked_to_stop = False

    def run(self) -> None:
        """Train to the end, or until asked to stop; then there is a checkpoint and no result."""
        for number in (signal.SIGTERM, signal.SIGUSR2):
            signal.signal(number, self._ask_to_stop)
        position = checkpoints.resume(self.engine, self.part, self.checkpoints_dir)
        if self.is_first:
            self.out.progress(position.step, self.num_steps)
        if position.validation_loss_start is None:
            position = position.model_copy(update={"validation_loss_start": self.validation_loss()})
        self._keep_metrics(position.step)
        while position.step < self.num_steps:
            position = self.step(position)
            save, stop = self._agree(position)
            if save or stop:
                checkpoints.save(self.engine, self.part, position, self.checkpoints_dir)
                self.saved_at = time.monotonic()
            if stop:
                return
        self._finish(position)

    def step(self, position: Position) -> Position:
        """One step of the optimizer over one global batch. Raises StepFailed if the loss is not finite."""
        began = time.perf_counter()
        rows = self.order.rows(position.step)
        scheduled = self.config.learning_rate * learning_rate_factor(
            position.step, self.num_steps, self.config.warmup_ratio, self.config.schedule
        )
        rate = scheduled * self.part.rate_factor(position.step)
        engines.set_learning_rate(self.engine, rate)
        loss, norm = self._accumulate(rows, position.step)
        seconds = time.perf_counter() - began
        num_tokens = int(self.train.lengths[rows].sum())
        after = position.model_copy(
            update={
                "step": position.step + 1,
                "num_tokens": position.num_tokens + num_tokens,
                "seconds": position.seconds + seconds,
            }
        )
        measured = {"loss": loss, "learning_rate": rate, "grad_norm": norm}
        self._record(after, {**measured, "tokens_per_second": num_tokens / seconds, "seconds": seconds})
        return after

    def _accumulate(self, rows: np.ndarray, step: int) -> tuple[float, float]:
        """One step of the optimizer from this process's share; the loss over all processes and the gradient's norm.

        Every token weighs the same wherever it lies: each pass is divided by the targets of the whole global batch, and
        multiplied by the number of processes because DeepSpeed averages gradients over them.
        """
        num_targets = max(1, self.train.num_targets(rows))
        world = comm.get_world_size()
        total = torch.zeros((), dtype=torch.float64)
        passes = self.passes.own(rows)
        self.engine.train()
        for number, own_rows in enumerate(passes, start=1):
            self.engine.set_gradient_accumulation_boundary(number == len(passes))  # packed steps differ in their passes
            loss = self.objective.summed_loss(self.engine, self.passes.batch(own_rows)) / num_targets
            total += loss.detach().double().cpu()
            self.engine.backward(loss * world, scale_wrt_gas=False)
            if number < len(passes):
                self.engine.step()
        _sum_over_processes(total, self.engine.device)
        self._require_finite("loss", float(total), rows, step)
        self.part.gradients_complete(step)
        norm = engines.finish_step(self.engine)
        if self.config.dtype in ("float32", "bfloat16"):  # in float16 DeepSpeed lowers its loss scale instead
            self._require_finite("gradient's norm", norm, rows, step)
        self.part.step_done(step, norm)
        return float(total), norm

    def _require_finite(self, what: str, value: float, rows: np.ndarray, step: int) -> None:
        """`value` is the same on all processes. Raises StepFailed with the samples and where to go on from."""
        if math.isfinite(value):
            return
        bad = not_finite_alone(self.engine, self.objective, self.passes, rows)
        blame = f"those whose own loss is not finite: {bad}" if bad else "each alone has a finite loss"
        blame = "so is the loss of each alone: it is the weights, not the samples" if len(bad) == len(rows) else blame
        newest = checkpoints.newest(self.checkpoints_dir)
        kept = f"the last good checkpoint is {newest[0]}" if newest else "there is no checkpoint yet"
        raise StepFailed(
            f"train: the {what} of step {step + 1} is {value} on samples {rows.tolist()} ({blame}); {kept}; "
            f"use a lower learning_rate (got {self.config.learning_rate}) or look at these samples"
        )

    @torch.no_grad()
    def validation_loss(self) -> float | None:
        """Nats per target over the validation split; None if there is no such split."""
        file = self.spec.tokens_dir / "validation.safetensors"
        if not file.exists():
            return None
        tokens = TokenFile(file)
        rows = np.arange(len(tokens))
        self.engine.eval()
        total = torch.zeros((), dtype=torch.float64)
        passes = Passes(tokens, self.spec)
        for own_rows in passes.own(rows):
            batch = passes.batch(own_rows if len(own_rows) else rows[:1])  # ZeRO-3 needs all to go through the model
            loss = self.objective.summed_loss(self.engine, batch)
            total += loss.double().cpu() if len(own_rows) else 0.0
        _sum_over_processes(total, self.engine.device)
        return float(total) / max(1, tokens.num_targets(rows))

    def _agree(self, position: Position) -> tuple[bool, bool]:
        """(save now, stop now), the same on all processes: true for all when it is for one."""
        every = self.config.checkpoint_every_steps
        due = position.step % every == 0 if every else time.monotonic() - self.saved_at > CHECKPOINT_SECONDS
        stop = self.asked_to_stop or (self.is_first and (self.out / STOP_FILE).exists())
        votes = torch.tensor([float(due and position.step < self.num_steps), float(stop)], dtype=torch.float64)
        _sum_over_processes(votes, self.engine.device)
        return bool(votes[0]), bool(votes[1])

    def _ask_to_stop(self, _number: int, _frame: object) -> None:
        self.asked_to_stop = True

    def _keep_metrics(self, num_steps: int) -> None:
        """Forget what an earlier attempt recorded after its last checkpoint."""
        file = self.out / METRICS_FILE
        if self.is_first:
            lines = file.read_text().splitlines(keepends=True)[:num_steps] if file.exists() else []
            file.write_text("".join(lines))

    def _record(self, position: Position, metrics: dict[str, float]) -> None:
        if not self.is_first:
            return
        with (self.out / METRICS_FILE).open("a") as stream:
            stream.write(json.dumps({"step": position.step, **metrics}) + "\n")
        speed = position.num_tokens / position.seconds
        self.out.progress(position.step, self.num_steps, loss=metrics["loss"], tokens_per_second=speed)

    def _finish(self, position: Position) -> None:
        validation_loss = self.validation_loss()
        engines.save(self.engine, self.part, self.spec)
        memory = torch.tensor(float(peak_memory_bytes(self.spec.device)), dtype=torch.float64)
        _sum_over_processes(memory, self.engine.device)
        if not self.is_first:
            return
        shutil.copyfile(self.spec.tokens_dir / "template.json", self.out / "template.json")
        losses = [json.loads(line)["loss"] for line in (self.out / METRICS_FILE).read_text().splitlines()]
        trained = [parameter for parameter in self.engine.module.parameters() if parameter.requires_grad]
        result = {
            "num_steps": self.num_steps,
            "train_loss_first": losses[0],
            "train_loss_last": losses[-1],
            "validation_loss_start": position.validation_loss_start,
            "validation_loss_end": validation_loss,
            "tokens_per_second": position.num_tokens / position.seconds,
            "num_tokens": position.num_tokens,
            "num_processes": comm.get_world_size(),
            "peak_memory_bytes": int(memory),
            "trainable_parameters": sum(getattr(p, "ds_numel", p.numel()) for p in trained),
        }
        _write_whole(self.out / RESULT_FILE, json.dumps(result))


def _sum_over_processes(value: torch.Tensor, device: torch.device) -> None:
    """Sum a CPU tensor over all processes, in place."""
    there = value.to(device)
    comm.all_reduce(there)
    value.copy_(there)


def _write_whole(file: Path, text: str) -> None:
    temporary = file.with_name(f"{file.name}.partial")
    temporary.write_text(text)
    temporary.replace(file)
