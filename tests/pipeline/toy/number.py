"""Write one number, slowly if asked. Counts its attempts, so that tests see a resume."""

import time
from typing import Literal

from pipeline.artifact import Artifact
from pipeline.errors import StepFailed, Stopped
from pipeline.stage import Resources, Workspace
from pipeline.strict import StrictModel

VERSION = 1


class Config(StrictModel):
    value: int
    pause_seconds: float = 0.0
    save_seconds: float | None = None
    """Asked to stop, it saves in so many seconds how far it is, and goes on from there; None: it begins anew."""


class Export(StrictModel):
    format: Literal["digits", "broken"] = "digits"
    rank: int | None = None


class Inputs(StrictModel):
    pass


def preflight(config: Config, _resources: Resources, _known: dict) -> list[str]:
    return ["value: found 13, expected a lucky number"] if config.value == 13 else []


def run(config: Config, _inputs: Inputs, out: Workspace, _resources: Resources) -> dict:
    attempts = out / "attempts.txt"
    with attempts.open("a") as file:
        file.write("attempt\n")
    (out / ".scratch").write_text("not part of the artifact")
    _pause(config, out)
    (out / "number.txt").write_text(str(config.value))
    return {"value": config.value, "attempts": len(attempts.read_text().splitlines())}


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
