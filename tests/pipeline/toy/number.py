"""Write one number, slowly if asked. Counts its attempts, so that tests see a resume, and says what it could use."""

import os
import tempfile
import time
from typing import Literal

from pipeline.artifact import Artifact
from pipeline.errors import StepFailed, Stopped
from pipeline.machine import cpu_count
from pipeline.stage import Needs, Resources, Workspace
from pipeline.strict import StrictModel

VERSION = 1


class Config(StrictModel):
    value: int
    pause_seconds: float = 0.0
    save_seconds: float | None = None
    """Asked to stop, it saves in so many seconds how far it is, and goes on from there; None: it begins anew."""
    fail: bool = False
    """After the pause."""


class Export(StrictModel):
    format: Literal["digits", "broken"] = "digits"
    rank: int | None = None


class Inputs(StrictModel):
    pass


def preflight(config: Config, _resources: Resources, _known: dict) -> list[str]:
    return ["value: found 13, expected a lucky number"] if config.value == 13 else []


def needs(_config: Config, resources: Resources, _known: dict) -> Needs:
    return Needs(num_cores=resources.num_threads or 1, num_gpus=resources.num_processes or 0)


def run(config: Config, _inputs: Inputs, out: Workspace, _resources: Resources) -> dict:
    started = time.time()
    attempts = out / "attempts.txt"
    with attempts.open("a") as file:
        file.write("attempt\n")
    (out / ".scratch").write_text("not part of the artifact")
    _pause(config, out)
    if config.fail:
        raise StepFailed("the number was asked to fail")
    (out / "number.txt").write_text(str(config.value))
    return {
        "value": config.value,
        "attempts": len(attempts.read_text().splitlines()),
        "started": started,
        "ended": time.time(),
        "num_cores": cpu_count(),
        "cores": sorted(os.sched_getaffinity(0)),
        "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "temporary": tempfile.gettempdir(),
    }


def _pause(config: Config, out: Workspace) -> None:
    saved = out / ".saved"
    left = config.pause_seconds - (float(saved.read_text()) if saved.exists() else 0.0)
    deadline = time.monotonic() + left
    try:
        while (left := deadline - time.monotonic()) > 0:
            out.progress(config.pause_seconds - left, config.pause_seconds, left=left)
            time.sleep(min(left, 0.1))
    except Stopped:
        if config.save_seconds is not None:
            time.sleep(config.save_seconds)
            saved.write_text(str(config.pause_seconds - left))
        raise


def export(
    _config: Config, _inputs: Inputs, artifact: Artifact, out: Workspace, options: Export, _resources: Resources
) -> dict:
    out.progress(1, 2)
    (out / "number.txt").write_text((artifact / "number.txt").read_text() * (options.rank or 1))
    (out / "number.txt").chmod(0o600)
    if options.format == "broken":
        raise StepFailed("the export was asked to fail")
    return {"error": 0.25, "matrices": [{"name": "first", "rank": 3}], "notes": ["a note"]}
