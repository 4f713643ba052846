"""Long-lived servers that steps use: started once, shared by consecutive steps, stopped before the machine is needed.

A service is a stage-like module `stages.<name>` with `Config`, `Inputs` and

    command(config, inputs, resources, port) -> list[str]
    environment(config, inputs, resources) -> dict[str, str]
    model_name(inputs) -> str            unique for what it serves
    startup_timeout_seconds: float

It is ready when GET /v1/models names the expected model, so another job's server on the port is never taken for ours.
"""

import json
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

from pipeline.errors import StepFailed
from pipeline.process import Process
from pipeline.stage import load_stage
from pipeline.step import Service
from pipeline.store import Store


class Server:
    """One running service."""

    def __init__(self, service: Service, inputs: dict[str, Any], store: Store) -> None:
        module = load_stage(service.stage)
        typed = module.Inputs.model_validate_json(json.dumps(inputs))
        port = _free_port()
        self.service = service
        self.url = f"http://127.0.0.1:{port}"
        self.model_name: str = module.model_name(typed)
        self._timeout_seconds: float = module.startup_timeout_seconds
        self.process = Process(
            module.command(service.config, typed, service.resources, port),
            store.log(service.stage, service.fingerprint),
            module.environment(service.config, typed, service.resources),
        )

    def wait_until_ready(self, tick: Callable[[float], None]) -> None:
        """Return when the expected model is served; `tick(elapsed_seconds)` is called about twice a second.

        Raises StepFailed with the log's tail when the server ends, serves something else, or takes too long.
        """
        started = time.monotonic()
        while not self._serves_the_model():
            elapsed = time.monotonic() - started
            self.check()
            if elapsed > self._timeout_seconds:
                raise StepFailed(self._failure(f"not ready after {elapsed:.0f} s"))
            tick(elapsed)
            self.process.poll(0.5)

    def check(self) -> None:
        """Raises StepFailed when the server has ended."""
        code = self.process.poll()
        if code is not None:
            raise StepFailed(self._failure(f"ended with exit code {code}"))

    def stop(self) -> None:
        """Stop it and all its processes."""
        self.process.stop(grace_seconds=10.0)
        self.process.close()

    def _serves_the_model(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/v1/models", timeout=2.0) as response:
                names = [model["id"] for model in json.load(response)["data"]]
        except (urllib.error.URLError, ConnectionError, TimeoutError, ValueError, KeyError):
            return False
        if self.model_name not in names:
            found = ", ".join(names)
            raise StepFailed(f"{self.url}: serves {found}, expected {self.model_name}; a foreign program, run again")
        return True

    def _failure(self, what: str) -> str:
        return f"the server ({self.service.stage}) {what}; the end of {self.process.log}:\n{self.process.log_tail()}"


def _free_port() -> int:
    """A port that is free now; should another program take it meanwhile, the model's name tells."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
