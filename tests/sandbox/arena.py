"""What attacks are let loose on: files, sockets and a process of the user who runs the sandbox."""

import os
import shutil
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from stages._sandbox.client import Server, Verdict
from stages._sandbox.inside.plan import Limits
from tests.sandbox import attacks

LIMITS = Limits(
    cpu_seconds=5.0, wall_seconds=60.0, memory_bytes=512 * 1024**2, home_bytes=8 * 1024**2, num_processes=24
)
SHORT = replace(LIMITS, cpu_seconds=1.0, wall_seconds=1.5)
"""For programs that have no end; others must come to theirs on a busy machine, too."""
SECRET = "SANDBOX_TEST_SECRET"
FOLDER = "SANDBOX_TEST_FOLDER"
"""Where the files are put, for a user who may write nowhere but in /tmp, which programs do not see at all."""


class Arena:
    """Everything here may be changed by everybody, so nothing but the sandbox protects it."""

    def __init__(self, stack: ExitStack) -> None:
        where = os.environ.get(FOLDER, "/var/lib" if os.access("/var/lib", os.W_OK) else "/tmp")
        self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=where)))
        self.folder.chmod(0o755)
        self.marker = f"x{uuid.uuid4().hex[:12]}"
        self.victim = stack.enter_context(subprocess.Popen(["sleep", "1000"], env={**os.environ, SECRET: "secret"}))
        stack.callback(self.victim.kill)
        self._temporary = Path("/tmp") / f"{self.marker}-private"
        self._temporary.write_text("private")
        self._temporary.chmod(0o666)
        stack.callback(self._temporary.unlink)
        self._port = self._listen(stack)
        self.restore()

    def restore(self) -> None:
        """The files as they were."""
        shutil.rmtree(self.outside, ignore_errors=True)
        self.outside.mkdir()
        self.precious.write_text("kept")
        self.outside.chmod(0o777)
        self.precious.chmod(0o666)

    @property
    def outside(self) -> Path:
        return self.folder / "outside"

    @property
    def precious(self) -> Path:
        return self.outside / "precious"

    def program(self, attack: str) -> str:
        """The source of an attack on this arena."""
        return (attacks.NAMED + attack).format(
            marker=self.marker,
            outside=self.outside,
            port=self._port,
            socket=self.folder / "socket",
            pid=self.victim.pid,
            temporary=self._temporary,
        )

    def run(self, server: Server, attack: str, limits: Limits = LIMITS) -> Verdict:
        return server.run(self.program(attack), limits)

    def survivors(self) -> list[int]:
        """Living processes of attacks, told by their name."""
        return [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/comm") if self._is_marked(path)]

    def harm(self) -> list[str]:
        """What attacks changed."""
        precious = self.precious
        found = {
            "a process of the user is dead": self.victim.poll() is not None,
            "files came or went": [path.name for path in self.outside.iterdir()] != ["precious"],
            "a file changed": not precious.exists() or precious.read_text() != "kept",
            "a mode changed": not precious.exists() or precious.stat().st_mode & 0o777 != 0o666,
            "a program is still alive": bool(self.survivors()),
        }
        return [what for what, happened in found.items() if happened]

    def _is_marked(self, path: Path) -> bool:
        try:
            return path.read_text().strip() == self.marker
        except OSError:
            return False

    def _listen(self, stack: ExitStack) -> int:
        network = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        for address in (f"\0{self.marker}", str(self.folder / "socket")):
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(address)
            listener.listen()
        (self.folder / "socket").chmod(0o777)
        return int(network.getsockname()[1])


@contextmanager
def new_arena() -> Iterator[Arena]:
    """One with everything in it."""
    with ExitStack() as stack:
        yield Arena(stack)
