"""The process that does one step: `python -m pipeline.child`, its order as JSON on standard input.

It takes the artifact's lock, runs the stage in the partial folder and seals the result. It is the same command
whether a local run or a batch job starts it. Exit code 0: the artifact is sealed, by us or by a run we waited for.
"""

import json
import os
import resource
import signal
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from pipeline.errors import PipelineError, Stopped
from pipeline.stage import Resources, Workspace, load_stage
from pipeline.store import Store, damage, seal
from pipeline.strict import StrictModel

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)


class Order(StrictModel):
    """What a child is asked to do."""

    stage: str
    fingerprint: str
    config: dict[str, Any]
    inputs: dict[str, Any]
    """Role -> Artifact as JSON, or name -> Artifact as JSON, or None."""
    store: Path
    resources: Resources
    provenance: dict[str, Any]


def main() -> int:
    """Do the order on standard input; the exit code."""
    order = Order.model_validate_json(sys.stdin.buffer.read())
    for number in STOP_SIGNALS:
        signal.signal(number, _raise_stopped)
    try:
        perform(order)
    except PipelineError as error:
        print(error, file=sys.stderr, flush=True)
        return error.exit_code
    except Exception:  # noqa: BLE001  the log gets the traceback, the runner the exit code
        import traceback

        traceback.print_exc()
        return 1
    return 0


def perform(order: Order) -> None:
    """Run the ordered step and seal its artifact, unless somebody else already has."""
    store = Store(order.store)
    lock = store.lock(order.stage, order.fingerprint)
    partial = store.partial(order.stage, order.fingerprint)
    lock.on_loss = _stop_myself
    if lock.is_held() and (holder := lock.holder()):
        print(f"process {holder['pid']} on {holder['host']} does this step; waiting for it", flush=True)
    with lock:
        if store.is_sealed(order.stage, order.fingerprint):
            return
        partial.mkdir(parents=True, exist_ok=True)
        manifest = _work(order, partial)
        if lock.is_lost():
            raise Stopped(_TAKEN_OVER)
        seal(partial, store.directory(order.stage, order.fingerprint), manifest)


_TAKEN_OVER = "another run took this one for dead and does the step now; a rerun waits for its result"


def _stop_myself() -> None:
    print(_TAKEN_OVER, file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGTERM)


def _work(order: Order, partial: Path) -> dict[str, Any]:
    """Run the stage; the manifest without its files."""
    started, stage = time.monotonic(), load_stage(order.stage)
    config = stage.Config.model_validate_json(json.dumps(order.config))
    inputs = stage.Inputs.model_validate_json(json.dumps(order.inputs))
    check_inputs(order.inputs)
    with MemorySampler() as memory:
        metrics = stage.run(config, inputs, Workspace(partial), order.resources)
    return {
        "format": 1,
        "stage": order.stage,
        "version": stage.VERSION,
        "fingerprint": order.fingerprint,
        "config": config.model_dump(mode="json"),
        "canonical_config": config.canonical(),
        "inputs": _identities(order.inputs),
        "metrics": metrics,
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "duration_seconds": round(time.monotonic() - started, 3),
        "peak_memory_bytes": memory.peak_bytes,
        "provenance": order.provenance,
    }


def check_inputs(inputs: dict[str, Any]) -> None:
    """Refuse inputs that lost or gained bytes since they were sealed (`verify` also compares the content)."""
    problems = [line for path in _paths(inputs) for line in damage(path, rehash=False)]
    if problems:
        raise PipelineError("\n".join([*problems, "an input is damaged: delete its folder and run again"]))


def _paths(inputs: dict[str, Any]) -> list[Path]:
    found: list[Path] = []
    for value in inputs.values():
        if isinstance(value, dict):
            found += [Path(value["path"])] if "path" in value and "stage" in value else _paths(value)
    return found


def _identities(inputs: dict[str, Any]) -> dict[str, Any]:
    """Role -> "stage/fingerprint" of an input, or name -> the same."""
    return {
        role: f"{value['stage']}/{value['fingerprint']}" if "fingerprint" in value else _identities(value)
        for role, value in inputs.items()
        if value is not None
    }


class MemorySampler:
    """Peak memory of this process and everything below it: the resident sets added up twice a second, in bytes.

    Pages that processes share are counted for each, so this is an upper estimate; never below one process's own peak.
    """

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> "MemorySampler":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
            self.peak_bytes = max(self.peak_bytes, resource.getrusage(who).ru_maxrss * 1024)

    def _sample(self) -> None:
        page = os.sysconf("SC_PAGE_SIZE")
        while not self._stop.wait(0.5):
            from pipeline.guard import descendants  # not loaded for steps that end before the first sample

            total = 0
            for pid in [os.getpid(), *descendants(os.getpid())]:
                try:
                    total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * page
                except (OSError, IndexError):
                    continue
            self.peak_bytes = max(self.peak_bytes, total)


def _raise_stopped(number: int, _frame: FrameType | None) -> None:
    """The first time only: a scheduler signals every process, and what is being saved then must not be interrupted."""
    for handled in STOP_SIGNALS:
        signal.signal(handled, _do_nothing)
    raise Stopped(f"stopped by {signal.Signals(number).name}; a rerun resumes")


def _do_nothing(_number: int, _frame: FrameType | None) -> None:
    """Not SIG_IGN, which programs that are started from here would inherit."""


if __name__ == "__main__":
    sys.exit(main())
