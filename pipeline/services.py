"""Long-lived servers that steps use: started once, shared by the steps that need them, stopped before others run.

A service is a stage-like module `stages.<name>` with `Config`, `Inputs` and

    command(config, inputs, resources, port) -> list[str]       listens on `resources.host`
    environment(config, inputs, resources) -> dict[str, str]
    model_name(inputs) -> str            unique for what it serves
    startup_timeout_seconds: float
    key_variable: str                    optional: the environment variable in which the server looks for its API key
    pulse(url, key, timeout_seconds) -> Hashable | None     optional: changes while work is done; None: no work

It is ready when GET /v1/models names the expected model, so another job's server on the port is never taken for ours.
`pulse` may raise OSError or ValueError when the server does not answer; `config.hang_timeout_seconds` says how long it
may stay as it is. Without `pulse` only the server's end is noticed.
Server and clients get a key of their own in the environment variable PIPELINE_SERVER_KEY, never on a command line.
"""

import errno
import functools
import json
import secrets
import socket
import time
from collections.abc import Callable
from typing import Any, Self

from pipeline.errors import StepFailed
from pipeline.plan import inputs_as_json
from pipeline.process import Process
from pipeline.pulse import Watch
from pipeline.served import served_models
from pipeline.stage import load_stage
from pipeline.step import Service
from pipeline.store import Store

SERVER_KEY = "PIPELINE_SERVER_KEY"
NUM_PORTS = 3
"""How many ports are tried: between finding a free one and listening on it, another program may take it."""
LOOPBACK = "127.0.0.1"
Tick = Callable[[float], None]


class PortTaken(StepFailed):
    """Another program listens where our server should."""


class Server:
    """One running service. `key` is what it asks of its clients, if anything."""

    def __init__(
        self, service: Service, store: Store, host: str = LOOPBACK, port: int | None = None, key: str | None = None
    ) -> None:
        """Start its process. `port`: by default one that is free now."""
        module = load_stage(service.stage)
        inputs = module.Inputs.model_validate_json(json.dumps(inputs_as_json(service, store)))
        resources = service.resources.model_copy(update={"host": host, "store_dir": store.root})
        self.service = service
        self.host = host
        self.port = port or free_port(host)
        self.key = key
        self.model_name: str = module.model_name(inputs)
        self.url = f"http://{_reachable(host)}:{self.port}"
        self._module = module
        self._watch: Watch | None = None
        self.process = Process(
            module.command(service.config, inputs, resources, self.port),
            store.log(service.stage, service.fingerprint),
            {**module.environment(service.config, inputs, resources), **_key_environment(module, key)},
        )

    @classmethod
    def start(cls, service: Service, store: Store, tick: Tick) -> Self:
        """A server for the steps of a run, on a port of its own and with a key of its own, once it is ready.

        `tick(elapsed_seconds)` is called about twice a second. Raises StepFailed when it does not get ready.
        """
        for attempt in range(NUM_PORTS):
            server = cls(service, store, key=secrets.token_urlsafe(32))
            try:
                server.wait_until_ready(tick)
            except PortTaken:
                server.stop()
                if attempt + 1 == NUM_PORTS:
                    raise
            except BaseException:
                server.stop()
                raise
            else:
                server.watch()
                return server
        raise AssertionError("the loop returns or raises")

    def environment(self) -> dict[str, str]:
        """What its clients need beside its URL."""
        return {SERVER_KEY: self.key} if self.key else {}

    def wait_until_ready(self, tick: Tick) -> None:
        """Return when the expected model is served.

        Raises PortTaken when another program has the port; StepFailed with the log's tail when the server ends, or
        takes too long.
        """
        started = time.monotonic()
        while not self._serves_the_model():
            elapsed = time.monotonic() - started
            self._check_start()
            if elapsed > self._module.startup_timeout_seconds:
                raise StepFailed(self.failure(f"not ready after {elapsed:.0f} s"))
            tick(elapsed)
            self.process.poll(0.5)

    def watch(self) -> None:
        """From now on `trouble` knows when it hangs, where the service has a pulse."""
        if hasattr(self._module, "pulse"):
            limit_seconds: float = self.service.config.hang_timeout_seconds  # type: ignore[attr-defined]
            self._watch = Watch(functools.partial(self._module.pulse, self.url, self.key), limit_seconds)

    def trouble(self, patience_seconds: float = 0.0) -> str | None:
        """What happened to it, if anything: it ended (within the patience), or it hangs."""
        code = self.process.poll(patience_seconds)
        if code is not None:
            return f"ended with exit code {code}"
        return self._watch.trouble() if self._watch else None

    def stop(self, grace_seconds: float = 10.0) -> None:
        """Stop it and all its processes."""
        if self._watch:
            self._watch.stop()
        self.process.stop(grace_seconds)
        self.process.close()

    def failure(self, what: str) -> str:
        """`what` happened to it, and the end of its log."""
        return f"the server ({self.service.stage}) {what}; the end of {self.process.log}:\n{self.process.log_tail()}"

    def _check_start(self) -> None:
        if self.process.poll() is not None and not is_free(self.host, self.port):
            raise PortTaken(self.failure(f"ended, for another program has its port {self.port}"))
        if trouble := self.trouble():
            raise StepFailed(self.failure(trouble))

    def _serves_the_model(self) -> bool:
        try:
            names = served_models(self.url, self.key, timeout_seconds=2.0)
        except (OSError, ValueError):
            return False
        if self.model_name not in names:
            found = ", ".join(names) or "nothing"
            raise PortTaken(f"{self.url}: serves {found}, expected {self.model_name}; another program has the port")
        return True


def free_port(host: str = LOOPBACK) -> int:
    """A port that is free now; should another program take it meanwhile, the model's name tells."""
    with socket.socket(_family(host)) as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen there now. Raises OSError when `host` is no address of this machine."""
    with socket.socket(_family(host)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what lingers of a server that ended is no matter
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise
    return True


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _reachable(host: str) -> str:
    """Where a program on this machine finds a server that listens on `host`, as a URL writes it."""
    address = {"0.0.0.0": LOOPBACK, "::": "::1"}.get(host, host)
    return f"[{address}]" if ":" in address else address


def _key_environment(module: Any, key: str | None) -> dict[str, str | None]:
    """The key under both names; without one, none that the user's own environment happens to hold."""
    return dict.fromkeys((SERVER_KEY, getattr(module, "key_variable", SERVER_KEY)), key)
