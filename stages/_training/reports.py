"""What workers and agents tell the launcher: lines of their output that are not for the log. Standard library only.

A report is cut into short lines that each say where they belong: srun passes on a line of at most 1,024 bytes in one
piece, and lets the lines of other nodes in between.
"""

import json
import os
import socket
import threading
from typing import Any

MARK = b"\x1ereport "
PIECE_BYTES = 800
_output = threading.Lock()


def node() -> str:
    """This machine, as Slurm calls it where it runs us."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def write(**fields: Any) -> None:
    """Tell the launcher, on standard output."""
    text = json.dumps(fields).encode()
    pieces = [text[start : start + PIECE_BYTES] for start in range(0, len(text), PIECE_BYTES)]
    for number, piece in enumerate(pieces):
        place = f"{node()}/{os.getpid()} {number} {len(pieces)} ".encode()
        pass_on(b"\n" + MARK + place + piece + b"\n")


def pass_on(line: bytes) -> None:
    """Write all of a line, and no other thread's between."""
    with _output:
        while line:
            line = line[os.write(1, line) :]


class Reader:
    """Puts reports together again."""

    def __init__(self) -> None:
        self.reports: list[dict[str, Any]] = []
        self._pieces: dict[bytes, list[bytes]] = {}

    def is_report(self, line: bytes) -> bool:
        """Take in a line of output; whether it was part of a report."""
        _, mark, rest = line.rstrip(b"\n").partition(MARK)
        if not mark:
            return False
        writer, number, count, piece = rest.split(b" ", 3)
        pieces = self._pieces.setdefault(writer, [])
        if int(number) == 0:
            pieces.clear()
        pieces.append(piece)
        if len(pieces) == int(count):
            self.reports.append(json.loads(b"".join(pieces)))
        return True
