"""Start one worker process per device, wait for them, and turn what they leave behind into the step's ending."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import StepFailed, Stopped, UserError
from pipeline.guard import guarded
from pipeline.stage import Resources, Workspace
from stages._training import layout
from stages._training.spec import (
    FAILURE_FILE,
    RESULT_FILE,
    SPEC_FILE,
    STOP_FILE,
    GradientSpec,
    TrainSpec,
    WorkerSpec,
)
from stages.adapters.gradient import Estimate
from stages.train import Config

if TYPE_CHECKING:
    from stages.train import Inputs

STOP_SECONDS = 150.0
"""How long training workers may take to finish their step and save it if asked to stop; the engine kills after 180."""


def train(config: Config, inputs: Inputs, out: Workspace, resources: Resources) -> dict[str, Any]:
    """Train to the end; the step's metrics. Raises what `run_workers` raises."""
    return run_workers("train", make_spec(config, inputs, out, resources), resources, STOP_SECONDS)


def run_workers(stage: str, spec: WorkerSpec, resources: Resources, stop_seconds: float = 0.0) -> dict[str, Any]:
    """Run the workers to their end; what they report.

    Raises StepFailed or UserError with what a worker reported, or Stopped, after `stop_seconds` for them at most.
    """
    out = spec.out
    for name in (RESULT_FILE, FAILURE_FILE, STOP_FILE):
        (out / name).unlink(missing_ok=True)
    (out / SPEC_FILE).write_text(spec.model_dump_json())
    code = _wait(command(out / SPEC_FILE, layout.num_processes(resources)), environment(spec), out, stop_seconds)
    if (out / FAILURE_FILE).exists():
        failure = json.loads((out / FAILURE_FILE).read_text())
        raise (UserError if failure["is_users"] else StepFailed)(failure["message"])
    if code != 0 or not (out / RESULT_FILE).exists():
        raise StepFailed(f"{stage}: a worker process ended with code {code}; its last lines are in the log")
    return dict(json.loads((out / RESULT_FILE).read_text()))


def make_spec(config: Config, inputs: Inputs, out: Workspace, resources: Resources) -> TrainSpec:
    """Everything the workers need to know."""
    shared = layout.layout(config, layout.num_processes(resources))
    return TrainSpec(
        config=config,
        model_dir=inputs.model.path.absolute(),
        tokens_dir=inputs.tokens.path.absolute(),
        adapter_dir=inputs.adapter.path.absolute(),
        out_dir=out.path.absolute(),
        device=layout.device(resources),
        num_threads=layout.num_threads(resources),
        accumulation=shared.accumulation,
        per_device_batch_size=shared.per_device_batch_size,
    )


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


def command(spec_file: Path, num_processes: int) -> list[str]:
    """PyTorch's launcher for one node, on a free port of the loopback interface."""
    launcher = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={num_processes}", "--nnodes=1"]
    rendezvous = ["--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", "--local-addr=127.0.0.1", "--max-restarts=0"]
    return guarded([*launcher, *rendezvous, "-m", "stages._training.worker", str(spec_file)])


def environment(spec: WorkerSpec) -> dict[str, str]:
    """This process's environment with what the workers need: threads, no network, the project on the path."""
    project = str(Path(__file__).parents[2])
    paths = [project, *filter(None, [os.environ.get("PYTHONPATH")])]
    ours = {
        "PYTHONPATH": os.pathsep.join(paths),
        "OMP_NUM_THREADS": str(spec.num_threads),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TORCHELASTIC_SIGNALS_TO_HANDLE": "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR2",  # handed on to the workers
    }
    if spec.device == "cpu":
        ours |= {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": "", "GLOO_SOCKET_IFNAME": "lo"}
    return {**os.environ, **ours}


def _wait(arguments: list[str], environ: dict[str, str], out: Workspace, stop_seconds: float) -> int:
    """The exit code. On Stopped the workers get to save where they are; on any other way out they are killed."""
    process = subprocess.Popen(arguments, env=environ)
    try:
        return process.wait()
    except Stopped:
        (out / STOP_FILE).touch()
        with contextlib.suppress(subprocess.TimeoutExpired):  # the last checkpoint has to do
            process.wait(timeout=stop_seconds)
        raise
    finally:
        _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a guarded command that still runs: the guard kills its whole tree at the second SIGTERM."""
    while process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=1.0)
