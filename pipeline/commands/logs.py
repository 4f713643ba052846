"""`logs RECIPE STEP`: what a step wrote, and what its batch job wrote besides; `--follow` goes on until it ends."""

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.commands import arguments as shared

if TYPE_CHECKING:
    from pipeline.slurm.tasks import Task
    from pipeline.step import Step
    from pipeline.store import Store

POLL_SECONDS = 0.5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    shared.add_recipe(parser)
    shared.add_step(parser)
    shared.add_store(parser)
    parser.add_argument("--follow", action="store_true", help="go on with what is written, until the step ends")
    parser.add_argument("--lines", type=int, default=40, metavar="N", help="the last N lines of each log (default: 40)")


def main(arguments: argparse.Namespace) -> int:
    from pipeline.errors import UserError

    if arguments.lines < 0:
        raise UserError(f"--lines: found {arguments.lines}, expected 0 or more")
    plan, store = shared.open_plan(arguments)
    step = plan.find(arguments.step)
    task = _task(step, store)
    reader = Reader(_files(step, store, task), arguments.lines)
    if arguments.follow:
        _follow(reader, step, store, task)
    elif not reader.has_printed:
        print(f"step {step.name}: has written nothing in the store {store.root} yet")
    return 0


def _task(step: "Step", store: "Store") -> "Task | None":
    from pipeline.slurm import FOLDER

    if not (store.root / FOLDER).is_dir():
        return None
    from pipeline.slurm.tasks import tasks_of

    return tasks_of(store).get(step.fingerprint)


def _files(step: "Step", store: "Store", task: "Task | None") -> list[Path]:
    """That of the job first, for the step's is what is looked for mostly, and stands last."""
    own = store.log(step.stage, step.fingerprint)
    if task is None:
        return [own]
    from pipeline.slurm.tasks import log_file

    return [log_file(store, task), own]


class Reader:
    """Prints several files as they grow, each piece under its file's name."""

    def __init__(self, files: list[Path], count: int) -> None:
        """Print the last `count` lines of each."""
        self.has_printed = False
        self._last: Path | None = None
        self._positions = dict.fromkeys(files, 0)
        for file in files:
            size = file.stat().st_size if file.exists() else 0
            self._positions[file] = size
            self._print(file, _end_of(file, size, count))

    def go_on(self) -> None:
        """Print what is new."""
        for file, position in self._positions.items():
            size = file.stat().st_size if file.exists() else 0
            if size > position:
                with file.open("rb") as stream:
                    stream.seek(position)
                    data = stream.read()
                self._positions[file] = position + len(data)
                self._print(file, data.decode(errors="replace"))

    def _print(self, file: Path, text: str) -> None:
        if text and file != self._last:
            print(f"{'' if self._last is None else chr(10)}==> {file} <==")
            self._last = file
        if text:
            self.has_printed = True
            print(text, end="" if text.endswith("\n") else "\n", flush=True)


def _end_of(file: Path, size: int, count: int) -> str:
    """The last lines of its first `size` bytes."""
    if not size or not count:
        return ""
    with file.open("rb") as stream:
        data, start = b"", size
        while start > 0 and data.count(b"\n") <= count:
            start = max(0, start - 65_536)
            stream.seek(start)
            data = stream.read(size - start)
    return "".join(data.decode(errors="replace").splitlines(keepends=True)[-count:])


def _follow(reader: Reader, step: "Step", store: "Store", task: "Task | None") -> None:
    """Until it is sealed, or nobody works on it any more, or the user has seen enough."""
    was_held = False
    try:
        while True:
            is_held = store.lock(step.stage, step.fingerprint).is_held()
            has_ended = _has_ended(step, store, task) or (was_held and task is None)
            reader.go_on()
            if has_ended and not is_held:
                return
            was_held = was_held or is_held
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        print()


def _has_ended(step: "Step", store: "Store", task: "Task | None") -> bool:
    """Whether it is done, or its task will not go on."""
    if task is None or store.is_sealed(step.stage, step.fingerprint):
        return store.is_sealed(step.stage, step.fingerprint)
    from pipeline.slurm.tasks import events

    said = events(store, task)
    return bool(said) and said[-1].what in ("finished", "failed", "gave up", "stopped")
