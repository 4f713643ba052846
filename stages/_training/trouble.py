"""What went wrong in the workers, as one message that says what to do. Loads no torch."""

from __future__ import annotations

import json
import math
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from pipeline import machine
from pipeline.errors import StepFailed, UserError
from stages._training.spec import CHECKPOINTS_DIR

if TYPE_CHECKING:
    from stages._training.spec import WorkerSpec


def explain(stage: str, spec: WorkerSpec, reports: list[dict[str, Any]], silent: list[str]) -> NoReturn:
    """Raise what the reports of workers and agents amount to: the first cause, not what followed from it.

    `silent` says how agents ended that reported nothing: they were killed, or never got to their work.
    """
    for report in reports:
        if "message" in report:
            raise (UserError if report["is_users"] else StepFailed)(report["message"])
        if "out_of_memory" in report:
            raise StepFailed(f"{stage}: {out_of_memory(spec, report)}")
        if "disk_full" in report:
            raise StepFailed(f"{stage}: {_disk_full(spec, report['disk_full'])}")
        if "not_shared" in report:
            raise UserError(
                f"resources.nodes: {report['host']} does not see {report['not_shared']} as it was written on the first "
                f"node; all nodes need the store on one shared file system, use --store with a folder there"
            )
    deaths = sorted((report for report in reports if "code" in report), key=lambda report: report["ended_at"])
    if silent or not deaths:
        how = silent[0] if silent else "the launch agents failed without a report"
        raise StepFailed(f"{stage}: {how}\nAll workers were ended with it; a rerun resumes.")
    raise StepFailed(f"{stage}: {_death(spec, deaths[0])}")


def _death(spec: WorkerSpec, report: dict[str, Any]) -> str:
    """A process that ended without a word of its own."""
    rank, code, tail = f"rank {report['rank']} on {report['host']}", report["code"], "\n".join(report["tail"])
    if report["killed_for_memory"]:
        return out_of_memory(spec, report | {"out_of_memory": f"{rank} was killed by the kernel"})
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    hint = (
        " (by hand, by a scheduler, or for its memory by the limit of a container)" if code == -signal.SIGKILL else ""
    )
    held = f"it had held {_gib(report['peak_memory_bytes'])}" if code < 0 else "the end of its log"
    return f"{rank} {how}{hint}, and all others were ended; a rerun resumes; {held}:\n{tail}"


def out_of_memory(spec: WorkerSpec, report: dict[str, Any]) -> str:
    """The sizes, and up to three things to change."""
    peak = f"; its peak before was {_gib(report['peak_memory_bytes'])}" if report.get("peak_memory_bytes") else ""
    return f"out of memory: {report['out_of_memory']}{peak}.\n{sizes(spec)}\nUse {_either(_advice(spec)[:3])}."


def remove_unfinished(spec: WorkerSpec) -> int:
    """Delete checkpoints that were not sealed: nobody writes them any more. The bytes that they had."""
    folders = list((spec.out_dir / CHECKPOINTS_DIR).glob("*.partial"))
    num_bytes = sum(_size(folder) for folder in folders)
    for folder in folders:
        shutil.rmtree(folder)
    return num_bytes


def _disk_full(spec: WorkerSpec, reason: str) -> str:
    """Says what there was, what it takes, and what is kept; removes what was half written."""
    free, written = machine.disk_free_bytes(spec.out_dir), remove_unfinished(spec)
    sealed = sorted((spec.out_dir / CHECKPOINTS_DIR).glob("step-*[0-9]"))
    takes = f"one takes {_size(sealed[-1]):,} bytes" if sealed else f"it had {written:,} bytes when it failed"
    kept = f"the last sealed one, {sealed[-1]}, is kept and a rerun resumes from it" if sealed else "none is sealed yet"
    return (
        f"cannot write to {spec.out_dir}: {reason}, {free:,} bytes were free; an unfinished checkpoint of {written:,} "
        f"bytes was removed ({takes}); {kept}; make room, or use --store elsewhere"
    )


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def sizes(spec: WorkerSpec) -> str:
    """What the memory went into."""
    from stages._weights.index import stored_tensors

    config, rows = spec.config, spec.per_device_batch_size
    num_parameters = sum(tensor.num_elements for tensor in stored_tensors(spec.model_dir).values())
    return (
        f"Each of {config.global_batch_size // (rows * spec.accumulation) or 1} processes takes {rows} rows of at most "
        f"{_longest(spec)} tokens at once, of a vocabulary of {_vocabulary(spec.model_dir)}, through "
        f"{num_parameters:,} parameters in {config.dtype} at ZeRO stage {config.zero_stage}."
    )


def _advice(spec: WorkerSpec) -> list[str]:
    """What makes it smaller and is not at its end already, the cheapest first."""
    config, rows = spec.config, spec.per_device_batch_size
    found = []
    if rows > 1:
        found.append(f"per_device_batch_size: {rows // 2} (now {rows}; the global batch stays the same)")
    if getattr(config, "gradient_checkpointing", True) is False:
        found.append("gradient_checkpointing: true")
    if config.zero_stage < 3 and not config.quantize:
        found.append(f"zero_stage: {config.zero_stage + 1} (now {config.zero_stage}) with more than one process")
    if config.dtype == "float32":
        found.append("dtype: bfloat16 (now float32)")
    return [*found, f"a tokenize.max_length below {_longest(spec)}", "a smaller model or quantize: nf4"]


def _either(choices: list[str]) -> str:
    return f"{', '.join(choices[:-1])}, or {choices[-1]}"


def _longest(spec: WorkerSpec) -> int:
    """Tokens of the longest sample."""
    import numpy as np
    from safetensors import safe_open

    with safe_open(spec.tokens_dir / "train.safetensors", "numpy") as file:
        return int(np.diff(file.get_tensor("offsets")).max())


def _vocabulary(model_dir: Path) -> int | str:
    config = json.loads((model_dir / "config.json").read_text())
    return config.get("vocab_size") or config.get("text_config", {}).get("vocab_size") or "unknown size"


def _gib(num_bytes: float) -> str:
    return f"{math.ceil(num_bytes / 2**30 * 100) / 100:.2f} GiB"
