"""The launch agent of one node: it starts the node's training processes, and one's death is the death of all.

    python -m stages._training.agent [--nodes N --master HOST:PORT ...] --processes P MODULE FILE

Each process runs `python -m MODULE FILE` with the variables of torch.distributed's "env://". What they print is passed
on; how the first one that failed ended is one more line (`reports`), which arrives from a full disk and from another
machine too. Standard library only: it starts before every training, and PyTorch's own launcher takes seconds to load.
"""

import argparse
import collections
import contextlib
import fcntl
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

from pipeline.content import file_sha256
from stages._training import reports

TAIL_LINES = 15
_SIOCGIFADDR = 0x8915  # linux/sockios.h
_HANDED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)


def reserve_port(host: str = "127.0.0.1", port: int = 0) -> socket.socket:
    """A TCP port of this machine that nobody else is given while the socket lives, but that rank 0 can listen on.

    Linux lets a second socket listen where the first is only bound, if both set SO_REUSEADDR. Raises OSError.
    """
    reserved = socket.socket()
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.bind((host, port))
    return reserved


class Rank:
    """One training process and the end of what it printed."""

    def __init__(self, rank: int, command: list[str], environment: dict[str, str]) -> None:
        self.rank = rank
        self.tail: collections.deque[str] = collections.deque(maxlen=TAIL_LINES)
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            reports.pass_on(line)
            if reports.MARK not in line and line.strip():
                self.tail.append(line.decode(errors="replace").rstrip())


class Agent:
    """All processes of this node."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._port = None if options.master else reserve_port()
        master = options.master or f"127.0.0.1:{self._port.getsockname()[1] if self._port else 0}"
        host, _, port = master.rpartition(":")
        host = host or os.environ["SLURM_LAUNCH_NODE_IPADDR"]
        self._environment = {
            **os.environ,
            "MASTER_ADDR": host,
            "MASTER_PORT": port,
            **({"GLOO_SOCKET_IFNAME": name} if options.nodes > 1 and (name := _interface_towards(host)) else {}),
            "WORLD_SIZE": str(options.nodes * options.processes),
            "LOCAL_WORLD_SIZE": str(options.processes),
        }
        self._command = [sys.executable, "-m", options.module, options.file]
        self._linger_seconds = options.linger
        self._first, self._num_processes = _node_rank(options) * options.processes, options.processes
        self._alive: dict[int, Rank] = {}

    def run(self) -> int:
        """The exit code: 0 if every process ended well, else 1 at once, with a report of the first that did not."""
        for number in _HANDED_ON:
            signal.signal(number, self._hand_on)
        num_killed = _num_killed_for_memory()
        for local_rank in range(self._num_processes):
            own = {"RANK": str(self._first + local_rank), "LOCAL_RANK": str(local_rank)}
            rank = Rank(self._first + local_rank, self._command, {**self._environment, **own})
            self._alive[rank.process.pid] = rank
        while self._alive:
            pid, status, usage = os.wait4(-1, 0)
            ended, ended_at = self._alive.pop(pid, None), time.time()
            if ended is None:
                continue
            ended.process.returncode = code = os.waitstatus_to_exitcode(status)
            ended.reader.join(timeout=2.0)
            if code:
                self.kill()
                reports.write(
                    rank=ended.rank,
                    host=reports.node(),
                    code=code,
                    ended_at=ended_at,
                    peak_memory_bytes=usage.ru_maxrss * 1024,
                    killed_for_memory=code == -signal.SIGKILL and _num_killed_for_memory() > num_killed,
                    tail=list(ended.tail),
                )
                time.sleep(self._linger_seconds)
                return 1
        return 0

    def kill(self) -> None:
        """End all processes now; below a guard, which ends what they have started."""
        for rank in list(self._alive.values()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(rank.process.pid, signal.SIGKILL)

    def end_with_input(self) -> None:
        """End everything when standard input ends: whoever started this agent from another machine is gone."""
        while os.read(0, 4096):
            pass
        self.kill()
        os._exit(1)

    def _hand_on(self, number: int, _frame: object) -> None:
        for pid in list(self._alive):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


def main(arguments: list[str]) -> int:
    """Be the agent of this node."""
    options = _parser().parse_args(arguments)
    if options.sha256 and sha256(Path(options.file)) != options.sha256:
        reports.write(not_shared=options.file, host=reports.node(), ended_at=0.0)
        return 1
    agent = Agent(options)
    if options.end_with_input:
        threading.Thread(target=agent.end_with_input, daemon=True).start()
    return agent.run()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("agent")
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--node-rank", type=int, help="0 is where the launcher runs; under srun, Slurm's")
    parser.add_argument("--processes", type=int, required=True, help="on this node")
    parser.add_argument("--master", help="host:port on which rank 0 will listen; :port is where srun was started")
    parser.add_argument("--sha256", help="of FILE, which all nodes must see")
    parser.add_argument("--end-with-input", action="store_true")
    parser.add_argument("--linger", type=float, default=0.0, help="seconds to wait after a failure was reported")
    parser.add_argument("module")
    parser.add_argument("file")
    return parser


def _node_rank(options: argparse.Namespace) -> int:
    if options.node_rank is None and options.nodes > 1:
        return int(os.environ["SLURM_NODEID"])
    return options.node_rank or 0


def _interface_towards(host: str) -> str | None:
    """The network interface by which this node reaches another; None where it cannot be told, or the user has.

    Gloo would take that of this machine's name, which may be the loopback interface:
    https://docs.pytorch.org/docs/stable/distributed.html#choosing-the-network-interface-to-use
    """
    if "GLOO_SOCKET_IFNAME" in os.environ:
        return None
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, 9))  # sends nothing
        own = probe.getsockname()[0]
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):
                request = struct.pack("256s", name.encode()[:15])
                answer = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, request)
                if socket.inet_ntoa(answer[20:24]) == own:
                    return name
    return None


def sha256(file: Path) -> str:
    return file_sha256(file) if file.exists() else ""


def _num_killed_for_memory() -> int:
    """Processes that the kernel has killed on this machine because memory ran out."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
