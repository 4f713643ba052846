"""One step that runs: its child process, its progress, how it ended."""

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.child import Order
from pipeline.plan import inputs_as_json
from pipeline.process import Process
from pipeline.services import Server
from pipeline.stage import PROGRESS
from pipeline.step import Step
from pipeline.store import Store


class Job:
    """`server` is the one that the step asks, if it asks any."""

    def __init__(
        self,
        step: Step,
        store: Store,
        server: Server | None,
        provenance: dict[str, Any],
        environment: Mapping[str, str | None],
    ) -> None:
        """Start its process, with `environment` over this process's own."""
        self.step = step
        self._store = store
        self._started = time.monotonic()
        self.process = Process(
            [sys.executable, "-m", "pipeline.child"],
            store.log(step.stage, step.fingerprint),
            {**environment, **(server.environment() if server else {})},
            order=_order(step, store, server, provenance).model_dump_json(),
        )

    @property
    def elapsed_seconds(self) -> float:
        return time.monotonic() - self._started

    @property
    def is_sealed(self) -> bool:
        return self._store.is_sealed(self.step.stage, self.step.fingerprint)

    def progress(self) -> dict[str, Any]:
        """What the stage last said of itself."""
        return read_progress(self._store.partial(self.step.stage, self.step.fingerprint) / PROGRESS)

    def end(self) -> int:
        """Stop it if it still runs, and give back what it holds; the exit code."""
        code = self.process.stop()
        self.process.close()
        return code


def read_progress(path: Path) -> dict[str, Any]:
    """What a stage last said of itself: {"done", "total", "metrics"}, or nothing yet."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}


def _order(step: Step, store: Store, server: Server | None, provenance: dict[str, Any]) -> Order:
    resources = step.resources.model_copy(
        update={"server_url": server.url if server else None, "store_dir": store.root}
    )
    return Order(
        stage=step.stage,
        fingerprint=step.fingerprint,
        config=step.config.model_dump(mode="json"),
        inputs=inputs_as_json(step, store),
        store=store.root,
        resources=resources,
        provenance=provenance,
    )
