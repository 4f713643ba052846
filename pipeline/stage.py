"""The contract between the engine and a stage.

A stage is a module `stages.<name>` with

    VERSION: int                      raise it when the same config may give another result
    class Config(StrictModel)         every field may change the result
    class Inputs(StrictModel)         role -> Artifact, Artifact | None, or dict[str, Artifact]
    run(config, inputs, out, resources) -> metrics      a dict that JSON can hold
    preflight(config, resources, known) -> list[str]    optional: problems found before any work, cheaply
    downloads(config, roles) -> list[Download]          optional: what it reads from the network (`pipeline.downloads`),
                                      given the names of the inputs that it has; cheaply. Its preflight reports what of
                                      it is missing where PIPELINE_FETCHED stands for the network
    needs(config, resources, known) -> Needs | None    optional: what it takes of this machine when it runs beside other
                                      steps (`run --max-parallel`), its inputs being known; without it, or for None, it
                                      runs alone. Results must not depend on what is there beyond that.
    shown(config, resources) -> dict[str, dict]         optional: what `plan --show NAME` prints of a step, by name: how
                                      its work will be set up, as JSON can hold it; cheaply
    class Export(StrictModel)         optional: what `export` can be asked for: `format` (a Literal, the usual one its
                                      default), and `rank` and `dtype` where they mean something
    export(config, inputs, artifact, out, options, resources) -> report     optional: write `artifact`, the stage's
                                      sealed result, into `out` for other programs; a dict that JSON can hold

Importing it must load no torch, transformers, vllm or deepspeed: those belong inside `run`.
"""

import importlib
import json
import os
from pathlib import Path
from types import ModuleType
from typing import Literal

from pydantic import Field

from pipeline.strict import LocalPath, StrictModel

PROGRESS = ".progress.json"


class Resources(StrictModel):
    """What a step may use. Never part of a fingerprint."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    num_processes: int | None = None
    """Training processes (ranks) of a node; by default one per GPU, or one per CPU core up to 2."""
    nodes: list[str] | None = Field(None, min_length=1)
    """Machines that train together, this one first; the others are reached over ssh and share the file system.
    By default this one, or all of the Slurm allocation. `localhost` once more is one more agent on this machine.
    """
    rendezvous_port: int | None = Field(None, ge=1, le=65535)
    """On which the first node is found by the others; by default a free one."""
    keep_last: int = Field(2, ge=1)
    """Checkpoints of a training that are kept until it is done: the newest, of which one may turn out to be broken."""
    keep_best: int = Field(0, ge=0)
    """And those of the lowest validation loss, where `train.evaluate_every_steps` measured it."""
    num_threads: int | None = None
    """CPU threads of a process; by default the cores shared out among the processes."""
    offload_dir: LocalPath | None = None
    """A folder on a fast local disk, for what training moves out of memory (`nvme`); what is left there is removed."""
    trackers: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = Field((), strict=False)
    """What gets the metrics of training, besides metrics.jsonl; files of theirs go below STORE/trackers."""
    max_concurrent_requests: int | None = Field(None, ge=1)
    """Requests that an endpoint gets at once; by default 16."""
    max_requests_per_minute: float | None = Field(None, gt=0)
    """What an endpoint's account allows; by default no limit of ours."""
    host: str = "127.0.0.1"
    """The address on which a service listens; set by the engine: steps find it on this machine, `serve` may open it."""
    server_url: str | None = None
    """Base URL of the service started for this step, such as http://127.0.0.1:40123; set by the runner."""
    store_dir: Path | None = None
    """Set by the runner; a stage may keep re-creatable caches below `store_dir / "cache"`."""


class Needs(StrictModel):
    """The least that a step must have, by its own estimate."""

    num_cores: int = Field(1, ge=1)
    """It gets more where there are more; `pipeline.machine.cpu_count` tells it."""
    memory_bytes: int = Field(0, ge=0)
    num_gpus: int = Field(0, ge=0)
    """It gets so many, and sees no others."""


class Workspace:
    """The directory a step writes into. It survives a crash, so that the stage can resume in it.

    The engine hashes and seals it after `run` returns; names starting with a dot are left out and removed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __truediv__(self, name: str) -> Path:
        """The path of a file in it."""
        return self.path / name

    def progress(
        self,
        done: float | None = None,
        total: float | None = None,
        seconds_left: float | None = None,
        **metrics: float | int | str,
    ) -> None:
        """Tell the user how far the step is; cheap enough for once a second, not for once a token.

        Without `seconds_left`, what is left is taken to go as fast as what is done.
        """
        text = json.dumps({"done": done, "total": total, "seconds_left": seconds_left, "metrics": metrics})
        temporary = self.path / f"{PROGRESS}.{os.getpid()}"
        temporary.write_text(text)
        temporary.replace(self.path / PROGRESS)


def load_stage(name: str) -> ModuleType:
    """The one dynamic look-up of stages. Raises ModuleNotFoundError for a stage that does not exist."""
    return importlib.import_module(f"{stages_package()}.{name}")


def stages_package() -> str:
    """The package that holds stage modules and `workflow`; tests of the engine name one of toy stages."""
    return os.environ.get("PIPELINE_STAGES", "stages")
