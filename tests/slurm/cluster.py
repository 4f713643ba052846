"""A real Slurm on this machine, for as long as a test session: slurmctld, two slurmd, and a munged of its own.

Everything lies in one temporary folder and listens on free ports and a socket there, so that it collides with no other
Slurm. Every daemon is below a guard: nothing outlives this process, whatever happens to it.
"""

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from pipeline.guard import guarded

ROOT = Path(__file__).parents[2]
NODES = ("n1", "n2")
CPUS = 8
"""Of each node, whatever the machine has: toy jobs need little."""
PROGRAMS = ("munged", "mungekey", "slurmctld", "slurmd", "sbatch", "srun", "scontrol")
READY_SECONDS = 30.0

SETTINGS = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=100
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
SchedulerParameters=sched_interval=2,bf_interval=2
JobRequeue=1
ReturnToService=2
KillWait=5
SlurmdTimeout=10
SlurmdParameters=config_overrides
MinJobAge={min_job_age}
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs={cpus} RealMemory={memory}
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs={cpus} RealMemory={memory}
PartitionName=main Nodes=ALL Default=YES PriorityTier=1 GraceTime=30
PartitionName=urgent Nodes=ALL PriorityTier=9 PreemptMode=OFF
"""
"""cred_expire is also how long a requeued job waits before it may start again: https://slurm.schedmd.com/slurm.conf.html,
AuthInfo. The 2 minutes that it usually is are longer than all of these tests.
"""


class Cluster:
    """What runs, and how tests ask it and hurt it."""

    def __init__(self, folder: Path, memory_mib: int = 8000) -> None:
        """Nothing runs yet."""
        self.folder = folder
        self._memory_mib = memory_mib
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        self._ports = free_ports(1 + len(NODES))

    def start(self) -> None:
        """Start everything. Raises AssertionError with the daemons' last lines if it does not get ready."""
        (self.folder / "state").mkdir()
        self.configure()
        self._start_munged()
        self._start("slurmctld", ["slurmctld", "-D", "-f", str(self.conf)])
        for node in NODES:
            self.start_node(node)

    @property
    def conf(self) -> Path:
        """What SLURM_CONF names."""
        return self.folder / "slurm.conf"

    def configure(self, min_job_age: int = 300) -> None:
        """Write the configuration; a cluster that runs reads it anew.

        `min_job_age`: seconds after which an ended job is forgotten.
        """
        values = {"user": getpass.getuser(), "cpus": CPUS, "memory": self._memory_mib, "min_job_age": min_job_age}
        self.conf.write_text(
            SETTINGS.format(
                folder=self.folder, host=socket.gethostname().partition(".")[0], ports=self._ports, **values
            )
        )
        if self._daemons:
            self.ask("scontrol", "reconfigure")

    @contextmanager
    def forgetful(self) -> Iterator[None]:
        """Jobs that ended are forgotten within seconds, as on a cluster that is asked the next day."""
        self.configure(min_job_age=2)
        try:
            yield
        finally:
            self.configure()

    def environment(self) -> dict[str, str]:
        """Of a user of this cluster and of no other, nor inside of a job."""
        mine = {name: value for name, value in os.environ.items() if not is_slurms(name)}
        return {**mine, "SLURM_CONF": str(self.conf)}

    def ask(self, *words: str, check: bool = True) -> str:
        """What a command of Slurm prints."""
        done = subprocess.run(words, env=self.environment(), capture_output=True, text=True, timeout=60)
        assert done.returncode == 0 or not check, f"{words}: {done.stderr}\n{self.tails()}"
        return done.stdout.strip()

    def state(self, job: str | int) -> str:
        """PENDING, RUNNING, COMPLETED, ...; empty if Slurm has forgotten it."""
        return self.field(job, "JobState")

    def exit_code(self, job: str | int) -> int:
        """Of an ended job's script."""
        return int(self.field(job, "ExitCode").partition(":")[0])

    def field(self, job: str | int, name: str) -> str:
        """What `scontrol show job` says; empty if it does not."""
        words = self.ask("scontrol", "show", "job", "--oneliner", str(job), check=False).split()
        return next((word.partition("=")[2] for word in words if word.startswith(f"{name}=")), "")

    def python_job(self, arguments: str, log: Path, *options: str) -> str:
        """Submit this interpreter with `arguments`, as a shell reads them, in the place of the script; the job's id."""
        script = f"#!/bin/bash\nexec '{sys.executable}' {arguments}\n"
        words = ["sbatch", "--parsable", f"--chdir={ROOT}", f"--output={log}", "--open-mode=append", *options]
        environment = {**self.environment(), "PYTHONPATH": str(ROOT)}
        done = subprocess.run(words, input=script, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def log(self, file: Path) -> str:
        """What a job wrote."""
        return file.read_text(errors="replace") if file.exists() else f"no {file}\n{self.tails()}"

    def wait(self, what: Callable[[], object], why: str, seconds: float = 60.0) -> None:
        """Until it is true. Raises AssertionError with the queue and the daemons' last lines after `seconds`."""
        deadline = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {why}\n{self.tails()}"
            time.sleep(0.2)

    def jobs(self) -> set[str]:
        """All that are queued or run."""
        return set(self.ask("squeue", "--noheader", "--format=%A").split())

    def wait_for(self, *jobs: str, seconds: float = 60.0) -> None:
        """Until these have ended."""
        self.wait(lambda: not self.jobs() & set(jobs), "all jobs have ended", seconds)

    def start_node(self, node: str) -> None:
        """Start its slurmd and wait until jobs can run on it."""
        self._start(f"slurmd-{node}", ["slurmd", "-D", "-N", node, "-f", str(self.conf)])
        is_ready = ("idle", "mixed", "allocated")
        self.wait(lambda: self._node_state(node).startswith(is_ready), f"{node} is ready", READY_SECONDS)

    def ensure_node(self, node: str) -> None:
        """Start it if it does not run."""
        if f"slurmd-{node}" not in self._daemons:
            self.start_node(node)

    def crash_node(self, node: str) -> None:
        """As if its power failed: slurmd, its step daemons and all of their jobs are gone at once."""
        guard = self._daemons.pop(f"slurmd-{node}")
        stop_at_once(guard)

    def processes(self, node: str) -> list[psutil.Process]:
        """All that runs on a node, slurmd first."""
        return psutil.Process(self._daemons[f"slurmd-{node}"].pid).children(recursive=True)

    def tails(self, lines: int = 12) -> str:
        """The queue, and how the logs of all daemons end."""
        daemons = ("munged", "slurmctld", *(f"slurmd-{node}" for node in NODES))
        logs = [self.folder / f"{name}.out" for name in daemons]
        queue = subprocess.run(["squeue"], env=self.environment(), capture_output=True, text=True, timeout=60).stdout
        ends = (f"{log.name}:\n" + "\n".join(log.read_text().splitlines()[-lines:]) for log in logs if log.exists())
        return "\n\n".join([queue, *ends])

    def stop(self) -> None:
        """End all daemons and jobs."""
        for guard in reversed(self._daemons.values()):
            stop_at_once(guard)
        self._daemons.clear()

    def _node_state(self, node: str) -> str:
        return self.ask("sinfo", "--noheader", f"--nodes={node}", "--format=%T", check=False).partition("\n")[0]

    def _start_munged(self) -> None:
        key, munge_socket = self.folder / "munge.key", self.folder / "munge.socket"
        subprocess.run(["mungekey", "--create", f"--keyfile={key}"], check=True)
        files = {"key-file": key, "socket": munge_socket, "pid-file": self.folder / "munged.pid"}
        files |= {"log-file": self.folder / "munged.log", "seed-file": self.folder / "munged.seed"}
        self._start("munged", ["munged", "--foreground", *(f"--{name}={file}" for name, file in files.items())])
        deadline = time.monotonic() + READY_SECONDS
        while not munge_socket.exists():
            assert time.monotonic() < deadline, (self.folder / "munged.out").read_text()
            time.sleep(0.05)

    def _start(self, name: str, command: list[str]) -> None:
        with (self.folder / f"{name}.out").open("ab") as output:
            self._daemons[name] = subprocess.Popen(
                guarded(command),
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )


@contextmanager
def running(memory_mib: int = 8000) -> Iterator[Cluster]:
    """A cluster in a temporary folder of short name: a socket's path has at most 107 characters."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    assert not missing, f"not found: {', '.join(missing)}; sudo apt-get install -y slurm-wlm munge"
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    folder.chmod(0o755)  # else munged refuses it
    cluster = Cluster(folder, memory_mib)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)


def free_ports(count: int) -> list[int]:
    """TCP ports that nobody listens on now."""
    sockets = [socket.create_server(("", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def is_slurms(name: str) -> bool:
    """Whether an environment variable steers Slurm's commands or tells of an allocation."""
    return name.startswith(("SLURM", "SBATCH_", "SRUN_", "SQUEUE_", "SINFO_", "SCANCEL_", "SACCT_", "SALLOC_"))


def stop_at_once(guard: subprocess.Popen[bytes]) -> None:
    """The guard kills everything below it."""
    while guard.poll() is None:
        guard.send_signal(signal.SIGQUIT)
        try:
            guard.wait(timeout=0.1)
        except subprocess.TimeoutExpired:
            continue
