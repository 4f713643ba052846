"""DeepSpeed's own opinion of a configuration, asked in a process of its own because importing it takes seconds."""

from __future__ import annotations

import difflib
import functools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import machine
from pipeline.stage import Resources
from stages._training import layout
from stages._training.deepspeed_config import on_this_machine

if TYPE_CHECKING:
    from stages.train import Config

SECONDS = 120.0
_ONE_AT_A_TIME = threading.Lock()


def problems(config: Config, resources: Resources) -> list[str]:
    """DeepSpeed's complaint; none for a batch that cannot be shared out: that is a line already. DeepSpeed is asked
    where the training will be.
    """
    if not machine.is_here() or layout.problems(config, layout.num_processes(resources)):
        return []
    chosen = on_this_machine(config, resources)
    return list(complaints(json.dumps(chosen, sort_keys=True), layout.device(resources)))


@functools.cache
def complaints(chosen: str, device: str) -> tuple[str, ...]:
    """What DeepSpeed finds wrong with a configuration, given as JSON; asked once, however many steps share it."""
    accelerator = {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}
    with _ONE_AT_A_TIME:
        answer = subprocess.run(
            [sys.executable, "-m", "stages._training.validation"],
            input=chosen,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
            cwd=Path(__file__).parents[2],
            env={**os.environ, **accelerator},
        )
    if answer.returncode:
        last = (answer.stderr.strip().splitlines() or ["no message"])[-1]
        return (f"train.deepspeed: DeepSpeed could not be asked: {last}",)
    return tuple(json.loads(answer.stdout.splitlines()[-1]))


class Read(dict[str, Any]):
    """A configuration that remembers what was looked up in it: what DeepSpeed never asks for, it does not know."""

    def __init__(self, values: dict[str, Any]) -> None:
        super().__init__(values)
        self.asked: set[str] = set()

    def __copy__(self) -> Read:
        return self

    def __contains__(self, key: object) -> bool:
        self.asked.add(str(key))
        return super().__contains__(key)

    def __getitem__(self, key: str) -> Any:
        self.asked.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        """As of a dict."""
        self.asked.add(key)
        return super().get(key, default)


def check(chosen: dict[str, Any]) -> Iterator[str]:
    """Build DeepSpeed's configuration object, and name what it refuses or passes over.

    As one process, whose batch is its own share: the arithmetic over processes is ours and holds.
    """
    from deepspeed.runtime.config import DeepSpeedConfig
    from pydantic import ValidationError

    alone = chosen["train_micro_batch_size_per_gpu"] * chosen["gradient_accumulation_steps"]
    read = Read({**chosen, "train_batch_size": alone})
    try:
        DeepSpeedConfig(read)
    except ValidationError as error:
        for detail in error.errors():
            place = ".".join(map(str, detail["loc"]))
            yield f"train.deepspeed: {place}: found {detail['input']!r}: {detail['msg']} ({error.title})"
        return
    except Exception as error:  # noqa: BLE001 - whatever it is, it is its complaint
        yield f"train.deepspeed: {' '.join(str(error).split()) or type(error).__name__}"
        return
    if "nvme" in json.dumps(chosen["zero_optimization"]):
        yield from _async_io_problems()
    for key in sorted(chosen.keys() - read.asked):
        near = difflib.get_close_matches(key, read.asked, 1)
        yield f"train.deepspeed: unknown key '{key}'" + (f"; did you mean '{near[0]}'?" if near else "")


def _async_io_problems() -> Iterator[str]:
    from deepspeed.ops.op_builder import AsyncIOBuilder

    if not AsyncIOBuilder().is_compatible(verbose=False):
        yield (
            "train: offload to nvme needs DeepSpeed's async_io, which cannot be built here; install libaio with its "
            "headers (libaio-dev), g++ and ninja, or offload to cpu"
        )


if __name__ == "__main__":
    print(json.dumps(list(check(json.load(sys.stdin)))))
