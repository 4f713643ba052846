"""Run the steps of a plan that are not sealed yet, one child process each, and leave everything resumable."""

import json
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from pipeline import history
from pipeline.child import Order
from pipeline.display import Display
from pipeline.errors import StepFailed, Stopped
from pipeline.plan import Plan, inputs_as_json
from pipeline.process import Process
from pipeline.provenance import provenance
from pipeline.services import Server
from pipeline.stage import PROGRESS
from pipeline.step import Service, Step
from pipeline.store import Store


class Runner:
    """One `run` of a recipe: what to do comes from the plan, what is done is in the store."""

    def __init__(
        self, plan: Plan, store: Store, record: history.History, display: Display, resume_command: str
    ) -> None:
        self.plan = plan
        self.store = store
        self.record = record
        self.display = display
        self.resume_command = resume_command
        self._server: Server | None = None

    def run(self, steps: list[Step]) -> None:
        """Do every step of `steps` that is not sealed. Raises StepFailed or Stopped; both leave the store valid."""
        pending = [step for step in steps if not self.store.is_sealed(step.stage, step.fingerprint)]
        environment = provenance()
        try:
            with _stop_signals():
                for index, step in enumerate(pending):
                    self._provide_service(step.service)
                    self._perform(step, f"{index + 1}/{len(pending)}", environment)
        except KeyboardInterrupt:
            raise Stopped(f"stopped; everything finished is kept, continue with: {self.resume_command}") from None
        finally:
            self._stop_server()

    def _perform(self, step: Step, position: str, environment: dict[str, Any]) -> None:
        self.display.started(step.name, position)
        started = time.monotonic()
        process = Process(
            [sys.executable, "-m", "pipeline.child"],
            self._log(step),
            self._server.environment() if self._server else None,
            order=self._order(step, environment),
        )
        try:
            code = self._watch(process, step, started)
        finally:
            process.stop()
            process.close()
        if code == Stopped.exit_code:
            raise KeyboardInterrupt
        if code != 0 or not self.store.is_sealed(step.stage, step.fingerprint):
            raise StepFailed(self._failure(step, process, code))
        self.display.finished(step.name, time.monotonic() - started)
        self._remember(step)

    def _watch(self, process: Process, step: Step, started: float) -> int:
        """Wait for the child, showing its progress; a server's death ends it."""
        progress = self.store.partial(step.stage, step.fingerprint) / PROGRESS
        while (code := process.poll(0.5)) is None:
            if self._server:
                self._server.check()
            self.display.tick(step.name, time.monotonic() - started, read_progress(progress))
        return code

    def _provide_service(self, service: Service | None) -> None:
        """Have `service` running, and no other: two models do not fit into one machine's memory."""
        if self._server and service and self._server.service.fingerprint == service.fingerprint:
            return
        self._stop_server()
        if service is None:
            return
        name, started = f"server for {_served(service)}", time.monotonic()
        self.display.started(name, "")
        self._server = Server.start(service, self.store, lambda elapsed: self.display.tick(name, elapsed, {}))
        self.display.finished(name, time.monotonic() - started)

    def _stop_server(self) -> None:
        if self._server:
            self._server.stop()
            self._server = None

    def _order(self, step: Step, environment: dict[str, Any]) -> str:
        resources = step.resources.model_copy(
            update={"server_url": self._server.url if self._server else None, "store_dir": self.store.root}
        )
        return Order(
            stage=step.stage,
            fingerprint=step.fingerprint,
            config=step.config.model_dump(mode="json"),
            inputs=inputs_as_json(step, self.store),
            store=self.store.root,
            resources=resources,
            provenance=environment,
        ).model_dump_json()

    def _remember(self, step: Step) -> None:
        self.record = self.record.model_copy(update={"steps": {**self.record.steps, step.name: step.fingerprint}})
        history.write(self.store, self.record)

    def _log(self, step: Step) -> Path:
        return self.store.log(step.stage, step.fingerprint)

    def _failure(self, step: Step, process: Process, code: int) -> str:
        return (
            f"step {step.name} failed (exit code {code}); the end of its log:\n\n{process.log_tail()}\n\n"
            f"log: {process.log}\nafter mending the cause, continue with: {self.resume_command}"
        )


def read_progress(path: Path) -> dict[str, Any]:
    """What a stage last said of itself: {"done", "total", "metrics"}, or nothing yet."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}


def _served(service: Service) -> str:
    return ", ".join(step.name for step in service.dependencies())


@contextmanager
def _stop_signals() -> Iterator[None]:
    """SIGTERM, SIGHUP and SIGUSR2 stop a run the way Ctrl-C does."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    numbers = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2)
    previous = [signal.signal(number, interrupt) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, previous, strict=True):
            signal.signal(number, handler)
