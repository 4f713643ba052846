"""How the launch agent is started on every node: here, over ssh, or by srun. Standard library only.

All nodes must see the store, the project and the interpreter under the same paths: a shared file system.
"""

import os
import shlex
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from pipeline.errors import UserError
from pipeline.guard import guarded
from pipeline.stage import Resources
from stages._training import agent, layout

WORKER = "stages._training.worker"
PROJECT = Path(__file__).parents[2]
LINGER_SECONDS = 1.0
"""How long an agent that failed waits for what the others have to say, before srun ends them all because of it."""
_HANDED_TO_SSH = (
    "PATH",
    "LD_LIBRARY_PATH",
    "PYTHONUNBUFFERED",
    "NCCL_",
    "GLOO_",
    "UCX_",
    "FI_",
    "HF_",
    "TORCH",
    "CUDA_",
)
"""Beginnings of names: what of this environment another machine gets; srun hands on all of it."""


class Command(NamedTuple):
    """One agent's command line, or that of srun for all."""

    words: list[str]
    name: str
    """For messages."""


def command(spec_file: Path, num_processes: int) -> list[str]:
    """The agent of the only node."""
    return guarded([*_agent(), f"--processes={num_processes}", WORKER, str(spec_file)])


def commands(
    spec_file: Path, resources: Resources, environment: Mapping[str, str], master: str | None
) -> list[Command]:
    """One command for every node, or one for all: a function of its arguments and the spec's content alone.

    `master` is where rank 0 will listen, host:port, or :port in a Slurm allocation; None for a single node.
    `environment` is what the workers get.
    """
    if master is None:
        return [Command(command(spec_file, layout.processes_per_node(resources)), "this node")]
    num_nodes = layout.num_nodes(resources, environment)
    options = [
        f"--nodes={num_nodes}",
        f"--processes={layout.processes_per_node(resources)}",
        f"--master={master}",
        f"--sha256={agent.sha256(spec_file)}",
    ]
    work = [WORKER, str(spec_file)]
    if resources.nodes is None:
        ending = ["--end-with-input", f"--linger={LINGER_SECONDS}"]
        words = [*_srun(num_nodes, environment), *_agent(), *options, *ending, *work]
        return [Command(guarded(words), f"srun on {num_nodes} nodes")]
    found = []
    for number, host in enumerate(resources.nodes):
        here = [*_agent(), *options, f"--node-rank={number}"]
        is_local = number == 0 or host in layout.LOOPBACK
        words = [*here, *work] if is_local else _ssh(host, [*here, "--end-with-input", *work], environment)
        found.append(Command(guarded(words), f"{host} (node {number})"))
    return found


def reserve_master(resources: Resources, environment: Mapping[str, str]) -> tuple[socket.socket, str] | None:
    """Where rank 0 will listen on this machine, kept free while the socket lives; None for a single node.

    Raises UserError if this is not the first node, or its port is taken.
    """
    if layout.num_nodes(resources, environment) == 1:
        return None
    if resources.nodes is None:
        return _reserve_for_srun(resources, environment)
    host = "127.0.0.1" if resources.nodes[0] in layout.LOOPBACK else resources.nodes[0]
    try:
        reserved = agent.reserve_port(host, resources.rendezvous_port or 0)
    except OSError as error:
        raise UserError(
            f"resources.nodes: cannot meet at {host}, port {resources.rendezvous_port or 'any'}: {error.strerror}; the "
            f"first node must be this machine ({socket.gethostname()}), and resources.rendezvous_port must be free"
        ) from None
    return reserved, f"{host}:{reserved.getsockname()[1]}"


def _reserve_for_srun(resources: Resources, environment: Mapping[str, str]) -> tuple[socket.socket, str]:
    """The same in a Slurm allocation. Without a host: each agent knows the address by which srun reached its node."""
    if environment.get("SLURM_NODEID") != "0":
        raise UserError(
            f"training on the {environment['SLURM_JOB_NUM_NODES']} nodes of a Slurm allocation: found this process on "
            f"{socket.gethostname()}, expected it on the first of them; start it by sbatch, or below "
            f"`srun --nodes=1 --overlap`, or take an allocation of one node"
        )
    try:
        reserved = agent.reserve_port("", resources.rendezvous_port or 0)
    except OSError as error:
        raise UserError(
            f"resources.rendezvous_port: cannot listen on port {resources.rendezvous_port}: {error.strerror}; "
            f"leave it out for a free one"
        ) from None
    return reserved, f":{reserved.getsockname()[1]}"


def _agent() -> list[str]:
    return [sys.executable, "-m", "stages._training.agent"]


def _srun(num_nodes: int, environment: Mapping[str, str]) -> list[str]:
    """One task a node, with all that the job has there, and this environment whatever sbatch was told of it.

    A task gets one core unless told; a step waits for what other steps hold, such as a shell's, unless it may overlap:
    https://slurm.schedmd.com/srun.html
    """
    words = ["srun", f"--nodes={num_nodes}", f"--ntasks={num_nodes}", "--ntasks-per-node=1"]
    cores = layout.cores_per_node(environment)
    cores_option = [f"--cpus-per-task={cores}"] if cores else []
    return [*words, *cores_option, "--mem=0", "--overlap", "--export=ALL", "--kill-on-bad-exit=1", f"--chdir={PROJECT}"]


def _ssh(host: str, words: list[str], environment: Mapping[str, str]) -> list[str]:
    """Run in the project's folder on another machine, without a question, below a guard of that machine."""
    ours = {"PYTHONPATH", "OMP_NUM_THREADS", "HF_HUB_OFFLINE", "TOKENIZERS_PARALLELISM", "DS_ACCELERATOR"}
    values = [
        f"{name}={value}"
        for name, value in sorted(environment.items())
        if name in ours or name.startswith(_HANDED_TO_SSH)
    ]
    there = guarded(words)
    there.remove(str(os.getpid()))  # of that machine, whose guard takes the shell for its parent
    remote = f"cd {shlex.quote(str(PROJECT))} && exec env {shlex.join([*values, *there])}"
    return ["ssh", "-o", "BatchMode=yes", host, remote]
