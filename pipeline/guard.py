"""Run a command that cannot outlive whoever started it: `python guard.py [PARENT_PID] -- COMMAND...`

The guard is its own session. It kills every process below it, however deep and in whatever group, as soon as
its parent dies (even by SIGKILL) or the command ends. A first SIGTERM or SIGINT, and every SIGUSR2, is handed on to the
command; a second SIGTERM kills at once. Exit code: the command's, or 128 + the signal that ended it.

Standard library only and started with -I -S, because it is started for every step.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h


def guarded(command: list[str]) -> list[str]:
    """The command line that runs `command` under a guard."""
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), "--", *command]


def descendants(root: int) -> list[int]:
    """All processes below `root`, from /proc."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:  # it ended while we looked
                continue
            children.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(entry.name))
    found, queue = [], [root]
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += below
    return found


def _kill_descendants() -> None:
    while alive := [pid for pid in descendants(os.getpid()) if not _is_zombie(pid)]:
        for pid in alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        _reap()


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def main(arguments: list[str]) -> int:
    """Guard the command in `arguments`; its exit code."""
    parent = os.getppid() if arguments[0] == "--" else int(arguments[0])
    command = arguments[arguments.index("--") + 1 :]
    if os.getpid() != os.getsid(0):
        os.setsid()
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    asked_to_stop = False
    process: subprocess.Popen[bytes] | None = None

    def stop(number: int, _frame: object) -> None:
        nonlocal asked_to_stop
        if asked_to_stop or os.getppid() != parent:
            _kill_descendants()
            os._exit(128 + number)
        asked_to_stop = True
        if process:
            process.send_signal(signal.SIGTERM)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGUSR2, lambda number, _frame: process.send_signal(number) if process else None)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died before the line above took effect
        return 128 + signal.SIGTERM
    try:
        process = subprocess.Popen(command)
    except OSError as error:
        print(f"cannot start {command[0]}: {error.strerror}", file=sys.stderr)
        return 127
    code = process.wait()
    _kill_descendants()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
