"""Start the launch agents, watch them, and turn what they report into the step's ending."""

from __future__ import annotations

import collections
import contextlib
import hashlib
import json
import math
import os
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from pipeline.errors import StepFailed, Stopped
from pipeline.stage import Resources, Workspace
from stages._training import layout, nodes, reports, trouble
from stages._training.spec import RESULT_FILE, SPEC_FILE, STOP_FILE, GradientSpec, TrainSpec, WorkerSpec
from stages.adapters.gradient import Estimate
from stages.train import Config

if TYPE_CHECKING:
    from stages.train import Inputs

STOP_SECONDS = 150.0
"""How long training workers may take to finish their step and save it if asked to stop; the engine kills after 180."""
OTHERS_SECONDS = 2.0
"""How long the other agents have to report what they saw, after the first one failed."""
POLL_SECONDS = 0.1


def train(config: Config, inputs: Inputs, out: Workspace, resources: Resources) -> dict[str, Any]:
    """Train to the end; the step's metrics. Raises what `run_workers` raises."""
    spec = make_spec(config, inputs, out, resources)
    try:
        return run_workers("train", spec, resources, STOP_SECONDS)
    finally:
        if spec.offload_dir:
            shutil.rmtree(spec.offload_dir, ignore_errors=True)  # checkpoints have their own copy


def run_workers(stage: str, spec: WorkerSpec, resources: Resources, stop_seconds: float = 0.0) -> dict[str, Any]:
    """Run the workers to their end; what they report.

    Raises StepFailed or UserError with what a worker reported, or Stopped, after `stop_seconds` for them at most.
    """
    out = spec.out
    for name in (RESULT_FILE, STOP_FILE):
        (out / name).unlink(missing_ok=True)
    trouble.remove_unfinished(spec)
    (out / SPEC_FILE).write_text(spec.model_dump_json())
    meeting = nodes.reserve_master(resources, os.environ)
    environ = environment(spec, is_loopback=layout.share_here(resources) == 1)
    commands = nodes.commands(out / SPEC_FILE, resources, environ, meeting[1] if meeting else None)
    agents = [Agent(each, environ) for each in commands]
    try:
        _wait(agents, out, stop_seconds)
        told = [report for each in agents for report in each.reports_until_now()]
        failed = [each for each in agents if each.process.poll()]
        silent = [each.ending for each in failed if not each.reports_until_now()]
    finally:
        for each in agents:
            each.kill()
        if meeting:
            meeting[0].close()
    if failed:
        trouble.explain(stage, spec, told, silent)
    if not (out / RESULT_FILE).exists() and (out / STOP_FILE).exists():
        raise Stopped("the workers were asked to stop and saved where they are; a rerun resumes")
    if not (out / RESULT_FILE).exists():
        raise StepFailed(f"{stage}: the workers ended without a result; their last lines are in the log")
    return dict(json.loads((out / RESULT_FILE).read_text()))


def make_spec(config: Config, inputs: Inputs, out: Workspace, resources: Resources) -> TrainSpec:
    """Everything the workers need to know."""
    shared = layout.layout(config, layout.num_processes(resources))
    return TrainSpec(
        config=config,
        model_dir=inputs.model.path.absolute(),
        tokens_dir=inputs.tokens.path.absolute(),
        adapter_dir=inputs.adapter.path.absolute(),
        keep_last=resources.keep_last,
        keep_best=resources.keep_best,
        out_dir=out.path.absolute(),
        device=layout.device(resources),
        num_threads=layout.num_threads(resources),
        accumulation=shared.accumulation,
        per_device_batch_size=shared.per_device_batch_size,
        offload_dir=_own_folder(resources.offload_dir, out),
        trackers=resources.trackers,
        trackers_dir=resources.store_dir and (resources.store_dir / "trackers").absolute(),
    )


def _own_folder(shared: Path | None, out: Workspace) -> Path | None:
    """A folder that no other run uses, and a rerun of this one finds again."""
    return shared and shared / f"train-{hashlib.sha256(str(out.path.absolute()).encode()).hexdigest()[:16]}"


def make_gradient_spec(
    estimate: Estimate,
    modules: list[str],
    seed: int,
    model_dir: Path,
    tokens_dir: Path,
    out: Workspace,
    resources: Resources,
) -> GradientSpec:
    """The same for an estimate of the gradient by the weights of `modules`: a batch is one pass of every process."""
    return GradientSpec(
        config=Config(
            global_batch_size=estimate.batch_size,
            zero_stage=estimate.zero_stage,
            dtype=estimate.dtype,
            max_gradient_norm=None,
            seed=seed,
        ),
        model_dir=model_dir.absolute(),
        tokens_dir=tokens_dir.absolute(),
        out_dir=out.path.absolute(),
        device=layout.device(resources),
        num_threads=layout.num_threads(resources),
        accumulation=estimate.num_batches,
        per_device_batch_size=-(-estimate.batch_size // layout.num_processes(resources)),
        modules=modules,
    )


def environment(spec: WorkerSpec, is_loopback: bool = True) -> dict[str, str]:
    """This process's environment with what the workers need: threads, no network, the project on the path."""
    paths = [str(nodes.PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])]
    ours = {
        "PYTHONPATH": os.pathsep.join(paths),
        "OMP_NUM_THREADS": str(spec.num_threads),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if spec.device == "cpu":
        ours |= {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
        ours |= {"GLOO_SOCKET_IFNAME": "lo"} if is_loopback else {}
    return {**os.environ, **ours}


class Agent:
    """A launch agent that runs, or srun with all of them. Its input stays open for as long as this process lives."""

    def __init__(self, command: nodes.Command, environ: dict[str, str]) -> None:
        self.name = command.name
        self._reports = reports.Reader()
        self._tail: collections.deque[str] = collections.deque(maxlen=5)
        self.process = subprocess.Popen(
            command.words, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def ending(self) -> str:
        """How the agent itself ended, for a message."""
        tail = "\n".join(self._tail)
        return f"the launch agent on {self.name} ended with code {self.process.returncode}; its last lines:\n{tail}"

    def reports_until_now(self) -> list[dict[str, Any]]:
        """All of an agent that ended; what is killed afterwards reports no cause."""
        if self.process.poll() is not None:
            self._reader.join(timeout=OTHERS_SECONDS)
        return list(self._reports.reports)

    def kill(self) -> None:
        """End it if it still runs: asked first, then its guard kills its whole tree."""
        number = signal.SIGTERM
        while self.process.poll() is None:
            self.process.send_signal(number)
            number = signal.SIGQUIT
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=1.0)
        self._reader.join(timeout=OTHERS_SECONDS)
        for stream in (self.process.stdin, self.process.stdout):
            assert stream
            stream.close()

    def _read(self) -> None:
        output: IO[bytes] | None = self.process.stdout
        assert output
        for line in output:
            if not self._reports.is_report(line) and line.strip():
                os.write(1, line)
                self._tail.append(line.decode(errors="replace").rstrip())


def _wait(agents: list[Agent], out: Workspace, stop_seconds: float) -> None:
    """Until all agents ended, or one failed. On Stopped the workers get to save where they are."""
    try:
        _wait_for_all(agents)
    except Stopped:
        (out / STOP_FILE).touch()
        _wait_for_all(agents, stop_seconds)  # else the last checkpoint has to do
        raise


def _wait_for_all(agents: list[Agent], seconds: float = math.inf) -> None:
    """Return once all ended, after `seconds`, or `OTHERS_SECONDS` after one that failed."""
    deadline, has_failed = time.monotonic() + seconds, False
    while time.monotonic() < deadline and None in (codes := [each.process.poll() for each in agents]):
        if any(codes) and not has_failed:
            has_failed, deadline = True, min(deadline, time.monotonic() + OTHERS_SECONDS)
        time.sleep(POLL_SECONDS)
