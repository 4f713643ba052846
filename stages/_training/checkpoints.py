"""Sealed checkpoints: written aside, hashed, renamed. What is not sealed, or no longer what was sealed, is not used.

A checkpoint holds DeepSpeed's state without the frozen base (adapter weights and each process's part of the optimizer),
every process's random state, what the method's part adds, and in sealed.json the position and the sha256 of each file.
"""

import contextlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from deepspeed import comm
from safetensors.torch import load_file, save_file

from pipeline.content import file_sha256
from pipeline.errors import StepFailed
from pipeline.strict import StrictModel
from stages._training import rescaling
from stages.adapters.training import TrainingPart

SEAL_FILE = "sealed.json"
_TAG = "deepspeed"
_log = logging.getLogger(__name__)


class Position(StrictModel):
    """How far a run is."""

    step: int = 0
    """Steps done."""
    num_tokens: int = 0
    """Tokens seen, without padding."""
    seconds: float = 0.0
    """Time spent in steps."""
    validation_loss_start: float | None = None
    validation_loss: float | None = None
    """After exactly this step; None if it was not measured there."""
    best_validation_loss: float | None = None
    """The lowest so far, not counting the start, and the step after which it was measured."""
    best_step: int | None = None
    evaluations_without_improvement: int = 0
    """In a row, the last ones."""

    def after_step(self, num_tokens: int, seconds: float) -> Self:
        """The position one step on."""
        done = {"step": self.step + 1, "num_tokens": self.num_tokens + num_tokens, "seconds": self.seconds + seconds}
        return self.model_copy(update={**done, "validation_loss": None})


class Seal(StrictModel):
    """What sealed.json says."""

    position: Position
    num_processes: int
    zero_stage: int
    sha256: dict[str, str]


class Keep(NamedTuple):
    """How many checkpoints are kept."""

    last: int
    best: int
    """By validation loss, of those after whose step it was measured."""


def save(engine: Any, part: TrainingPart, position: Position, root: Path, keep: Keep) -> None:
    """Save and seal where the run is, and drop what need not be kept. Every process must call it."""
    final = folder_of(root, position.step)
    partial = final.with_name(f"{final.name}.partial")
    if comm.get_rank() == 0:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(final, ignore_errors=True)  # a broken one of the same step
        partial.mkdir(parents=True)
    comm.barrier()
    with _without_frozen(engine.module):
        engine.save_checkpoint(str(partial), tag=_TAG, save_latest=False, exclude_frozen_parameters=True)
    save_file(_random_state(), partial / f"random-{comm.get_rank()}.safetensors")
    comm.barrier()
    if comm.get_rank() == 0:
        part.save(partial)
        _seal(partial, final, position, comm.get_world_size(), engine.zero_optimization_stage())
        _drop_old(root, keep)
    comm.barrier()


def resume(engine: Any, part: TrainingPart, root: Path) -> Position:
    """Load the newest sealed checkpoint and return its position; the start if there is none.

    Of another number of processes, all but the random states is loaded: order and states go on, dropout draws anew.
    """
    found = newest(root)
    if found is None:
        return Position()
    folder, seal = found
    load_weights(engine, part, folder)
    if seal.num_processes == comm.get_world_size():
        _restore_random_state(load_file(folder / f"random-{comm.get_rank()}.safetensors"))
    else:
        _log.warning("%s: made by %d processes, loaded by %d", folder, seal.num_processes, comm.get_world_size())
    return seal.position


def load_weights(engine: Any, part: TrainingPart, folder: Path) -> None:
    """Load what was trained, with the optimizer's states. Every process must call it."""
    if _seal_of(folder).num_processes == comm.get_world_size():
        engine.load_checkpoint(str(folder), tag=_TAG, load_module_strict=False)
    else:
        rescaling.load(engine, folder, _TAG)
    part.load(folder)


def load_best(engine: Any, part: TrainingPart, position: Position, root: Path) -> None:
    """Go back to the weights of the best step. Every process must call it. Raises StepFailed if they are broken."""
    if position.best_step is None or position.best_step == position.step:
        return
    folder = folder_of(root, position.best_step)
    if not (folder / SEAL_FILE).exists() or broken_files(folder, _seal_of(folder)):
        raise StepFailed(
            f"{folder}: the checkpoint of the best step is gone or not what was sealed; "
            f"use train.result: last, or delete {root} to start over"
        )
    load_weights(engine, part, folder)


def folder_of(root: Path, step: int) -> Path:
    """Where the checkpoint after so many steps is, or would be."""
    return root / f"step-{step:08d}"


def newest(root: Path) -> tuple[Path, Seal] | None:
    """The newest checkpoint whose files are what was sealed; broken ones are named in a warning."""
    for folder in _sealed(root):
        seal = _seal_of(folder)
        broken = broken_files(folder, seal)
        if not broken:
            return folder, seal
        _log.warning("%s: ignored, %s is not what was sealed; going on from an older one", folder, ", ".join(broken))
    return None


def broken_files(folder: Path, seal: Seal) -> list[str]:
    """Those that are not what was sealed."""
    return [name for name, digest in seal.sha256.items() if _sha256(folder / name) != digest]


def _seal_of(folder: Path) -> Seal:
    return Seal.model_validate_json((folder / SEAL_FILE).read_text())


def _drop_old(root: Path, keep: Keep) -> None:
    """All but the newest, the best, and what the newest may yet go back to as the best."""
    losses = {folder: _seal_of(folder).position.validation_loss for folder in _sealed(root)}
    measured = sorted((loss, folder) for folder, loss in losses.items() if loss is not None)
    kept = set(_sealed(root)[: keep.last])
    bests = {_seal_of(folder).position.best_step for folder in kept}
    kept |= {folder for _, folder in measured[: keep.best]}
    kept |= {folder_of(root, step) for step in bests if step is not None}
    for old in set(_sealed(root)) - kept:
        shutil.rmtree(old, ignore_errors=True)  # on NFS, what somebody still reads stays a little longer


def _sealed(root: Path) -> list[Path]:
    return sorted((file.parent for file in root.glob(f"step-*[0-9]/{SEAL_FILE}")), reverse=True)


def _seal(partial: Path, final: Path, position: Position, num_processes: int, zero_stage: int) -> None:
    files = sorted(file for file in partial.rglob("*") if file.is_file())
    for file in files:
        _flush_to_disk(file)
    digests = {str(file.relative_to(partial)): _sha256(file) for file in files}
    seal = Seal(position=position, num_processes=num_processes, zero_stage=zero_stage, sha256=digests)
    (partial / SEAL_FILE).write_text(json.dumps(seal.model_dump(), indent=1))
    _flush_to_disk(partial / SEAL_FILE)
    partial.rename(final)
    _flush_to_disk(final.parent)


def _sha256(file: Path) -> str:
    """Empty for a file that is gone."""
    return file_sha256(file) if file.exists() else ""


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


@contextlib.contextmanager
def _without_frozen(module: torch.nn.Module) -> Iterator[None]:
    """Inside, the module's state has no frozen tensor. DeepSpeed itself leaves each out under its first name only, so
    that it would save a head that is tied to the embedding, and what 4-bit weights are unpacked with.
    """

    def drop(module: torch.nn.Module, state: dict[str, Any], *_: Any) -> None:
        frozen = {name for name, each in module.named_parameters(remove_duplicate=False) if not each.requires_grad}
        for name in [name for name in state if name in frozen or f"{name.partition('.weight.')[0]}.weight" in frozen]:
            del state[name]

    hook = module.register_state_dict_post_hook(drop)
    yield
    hook.remove()


def _random_state() -> dict[str, torch.Tensor]:
    state = {"cpu": torch.get_rng_state()}
    return {**state, "cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else state


def _restore_random_state(state: dict[str, torch.Tensor]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"])
