"""Run a command where no network is, but for loopback: `python -m tests.no_network COMMAND...` (Linux)."""

import fcntl
import os
import shutil
import socket
import struct
import sys

SIOCSIFFLAGS, IFF_UP = 0x8914, 0x1


def without_network(command: list[str]) -> list[str]:
    """The command line that does it."""
    user = [] if os.getuid() == 0 else ["--user", "--map-root-user"]
    return [shutil.which("unshare") or "unshare", *user, "--net", sys.executable, "-m", "tests.no_network", *command]


def _loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", IFF_UP))


if __name__ == "__main__":
    _loopback_up()
    os.execvp(sys.argv[1], sys.argv[1:])
