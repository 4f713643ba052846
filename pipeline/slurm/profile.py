"""What a cluster wants to be told: `slurm/clusters/*.yaml`, typed. Nothing of it ever enters a fingerprint.

The fields have Slurm's own names and notation: https://slurm.schedmd.com/sbatch.html
"""

import re
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from pipeline.machine import ENOUGH_BYTES, Node
from pipeline.plan import workflow
from pipeline.strict import StrictModel

_TIME = re.compile(r"(?:(?P<days>\d+)-(?P<rest>\d+(?::\d+){0,2})|(?P<clock>\d+(?::\d+){0,2}))")
_MEMORY = re.compile(r"(?P<size>\d+)(?P<unit>[KMGT]?)B?", re.IGNORECASE)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OURS = (
    "array",
    "chdir",
    "dependency",
    "error",
    "job-name",
    "kill-on-invalid-dep",
    "open-mode",
    "output",
    "parsable",
    "signal",
    "test-only",
    "wait",
    "wrap",
)
"""Options of sbatch that `submit` sets itself."""


def seconds(time: str | int) -> int:
    """Slurm's time limit: minutes, m:s, h:m:s, d-h, d-h:m, d-h:m:s. 0 is no limit. Raises ValueError."""
    found = _TIME.fullmatch(str(time))
    if not found:
        raise ValueError(f"found {time!r}, expected minutes, m:s, h:m:s, d-h, d-h:m or d-h:m:s, such as 4:00:00")
    if found["days"]:
        hours, minutes, rest = ([int(part) for part in found["rest"].split(":")] + [0, 0])[:3]
        return ((int(found["days"]) * 24 + hours) * 60 + minutes) * 60 + rest
    parts = [int(part) for part in found["clock"].split(":")]
    hours, minutes, rest = {1: [0, *parts, 0], 2: [0, *parts], 3: parts}[len(parts)]
    return (hours * 60 + minutes) * 60 + rest


def memory_bytes(memory: str | int) -> int:
    """Slurm's memory of a node: MiB, or a number and K, M, G or T. 0 is all of it. Raises ValueError."""
    found = _MEMORY.fullmatch(str(memory))
    if not found:
        raise ValueError(f"found {memory!r}, expected a number of MiB, or a number and K, M, G or T, such as 64G")
    return int(found["size"]) * 2 ** {"K": 10, "M": 20, "G": 30, "T": 40}[found["unit"].upper() or "M"]


def _is_time(time: str | int) -> str | int:
    seconds(time)
    return time


def _is_memory(memory: str | int) -> str | int:
    memory_bytes(memory)
    return memory


def _is_one_line(text: str) -> str:
    if not text or not text.isprintable():
        raise ValueError(f"found {text!r}, expected text without line breaks and control characters")
    return text


def _is_option(option: str) -> str:
    found = re.match(r"--([a-z][a-z-]*)(?:=|$)", option)
    if not found:
        raise ValueError(f"found {option!r}, expected an option of sbatch as --name=value or --name")
    if found[1] in _OURS:
        raise ValueError(f"found {option!r}, which `submit` sets itself; leave it out")
    return option


Line = Annotated[str, AfterValidator(_is_one_line)]
Count = Annotated[int, Field(ge=1)]
Time = Annotated[str | int, AfterValidator(_is_time)]
Memory = Annotated[str | int, AfterValidator(_is_memory)]


class Options(StrictModel):
    """What a job gets, and how its work is entered there. What is left out is what the cluster does by default."""

    account: Line | None = None
    partition: Line | None = None
    qos: Line | None = None
    reservation: Line | None = None
    constraint: Line | None = None
    nodes: Count = 1
    """Only training uses more than one."""
    gpus_per_node: Annotated[int, Field(ge=0)] | Line | None = None
    """4, or a type with it: a100:4."""
    gpu_memory: Memory | None = None
    """Of one GPU, for the check before anything is submitted; without it, only the job itself checks that."""
    cpus_per_task: Count | None = None
    """Cores of a node: there is one task on each, which starts whatever processes it needs."""
    memory: Memory | None = None
    """Of a node: 64G; 0 is all of it."""
    time: Time | None = None
    """Limit: 4:00:00, 1-12. Work that reaches it is saved, requeued and goes on."""
    signal_seconds: Annotated[int, Field(ge=1, le=65535)] = 120
    """So long before the time limit work is asked to save itself and stop. Slurm may ask up to a minute earlier."""
    command: list[Line] = Field(["python"], min_length=1)
    """What starts Python on the compute node: [/path/to/venv/bin/python], or
    [apptainer, exec, --nv, image.sif, python]."""
    setup: list[Line] = []
    """Lines of bash before that: module load cuda/12.4. One that fails ends the job."""
    environment: dict[str, Line] = {}
    """Variables, taken literally."""
    options: list[Annotated[Line, AfterValidator(_is_option)]] = []
    """Further options of sbatch: --gres=gpu:4, --mail-type=FAIL."""

    @field_validator("environment")
    @classmethod
    def _has_names(cls, environment: dict[str, str]) -> dict[str, str]:
        for name in environment:
            if not _VARIABLE.fullmatch(name):
                raise ValueError(f"found the variable {name!r}, expected letters, digits and _")
        return environment

    @model_validator(mode="after")
    def _leaves_time(self) -> Self:
        limit = seconds(self.time) if self.time is not None else 0
        if limit and self.signal_seconds >= limit:
            raise ValueError(
                f"signal_seconds: got {self.signal_seconds}, must be < the {limit} seconds of time: {self.time}; "
                "raise time, or lower signal_seconds"
            )
        return self

    def node(self) -> Node:
        """A node as a job gets it. What is not said, it has enough of; of cores Slurm gives one."""
        number = re.fullmatch(r"(?:[^:]+:)?(\d+)", str(self.gpus_per_node or self._gres() or 0))
        return Node(
            num_nodes=self.nodes,
            cpu_count=self.cpus_per_task or 1,
            memory_bytes=(memory_bytes(self.memory) if self.memory is not None else 0) or ENOUGH_BYTES,
            num_gpus=int(number[1]) if number else 1,
            gpu_memory_bytes=memory_bytes(self.gpu_memory) if self.gpu_memory is not None else ENOUGH_BYTES,
        )

    def _gres(self) -> str | None:
        """GPUs that are asked for in the older way: --gres=gpu:a100:4."""
        found = (re.match(r"--gres=gpu(?::([^,]+))?", option) for option in self.options)
        return next((each[1] or "1" for each in found if each), None)

    def over(self, below: "Options") -> "Options":
        """These fields where they are given, else those of `below`; environment variables one by one."""
        given = {name: getattr(self, name) for name in self.model_fields_set}
        kept = {name: getattr(below, name) for name in below.model_fields_set}
        environment = {"environment": {**below.environment, **self.environment}}
        return Options.model_validate({**kept, **given, **environment})


class Profile(StrictModel):
    """A cluster."""

    store: Annotated[Path, Field(strict=False)] | None = None
    """Where artifacts are kept, on a file system that all nodes see; --store replaces it."""
    scratch: Line | None = None
    """A folder on a fast disk of the nodes, for temporary files and compilers' caches; variables of the job, such as
    $TMPDIR, are replaced there."""
    fetched: Annotated[Path, Field(strict=False)] | None = None
    """A folder made by `fetch`: nodes take models and data from there and ask nobody else."""
    max_array_tasks: Count | None = None
    """Tasks of one array that run at once."""
    max_timeouts_without_progress: Count = 3
    """After so many time limits in a row with nothing more saved a task fails instead of being requeued."""
    default: Options = Options()
    kinds: dict[str, Options] = {}
    """What jobs of a kind (prepare, train, ...) get instead, field by field."""

    @field_validator("store", "fetched")
    @classmethod
    def _is_absolute(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        if path is not None and not path.is_absolute():
            raise ValueError(f"found {path}, expected an absolute path, since {info.field_name} is used on other nodes")
        return path

    @field_validator("kinds")
    @classmethod
    def _knows_kinds(cls, kinds: dict[str, Any]) -> dict[str, Any]:
        known = list(dict.fromkeys(workflow().KINDS.values()))
        for kind in kinds:
            if kind not in known:
                raise ValueError(f"found {kind!r}, expected one of {', '.join(known)}")
        return kinds

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        for kind in self.kinds:
            self.options(kind)
        return self

    def options(self, kind: str) -> Options:
        """What a job of that kind gets."""
        return self.kinds[kind].over(self.default) if kind in self.kinds else self.default
