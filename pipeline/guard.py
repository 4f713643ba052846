"""Run a command that cannot outlive whoever started it: `python guard.py [PARENT_PID] -- COMMAND...`

The guard is its own session. It kills every process below it, however deep and in whatever group, as soon as
its parent dies (even by SIGKILL) or the command ends. The first SIGTERM or SIGINT, and every SIGUSR2, is handed on to
the command; SIGQUIT kills at once. (A second SIGTERM does not: a scheduler sends one to every process, besides the
one that its parent sends.) Exit code: the command's, or 128 + the signal that ended it.

It is started for every step: so -I -S, the standard library only, and of that only what loads in a moment.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h


def guarded(command: list[str]) -> list[str]:
    """The command line that runs `command` under a guard."""
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), "--", *command]


def descendants(root: int) -> list[int]:
    """All living processes below `root`, from /proc."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208  pathlib would double the start-up time
        if name.isdigit() and (status := _status(int(name))):
            state, parent = status
            if state != "Z":
                children.setdefault(parent, []).append(int(name))
    found, queue = [], [root]
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += below
    return found


def _status(pid: int) -> tuple[str, int] | None:
    """State letter and parent of a process; None when it ended while we looked."""
    try:
        with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
            state, parent = file.read().rpartition(")")[2].split()[:2]
    except OSError:
        return None
    return state, int(parent)


def _kill_descendants() -> None:
    while alive := descendants(os.getpid()):
        for pid in alive:
            try:  # noqa: SIM105  contextlib is not loaded for one line
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        _reap()


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
    asked_to_stop, child = False, 0

    def stop(number: int, _frame: object) -> None:
        nonlocal asked_to_stop
        if os.getppid() != parent:
            kill(number, None)
        if not asked_to_stop:
            asked_to_stop = True
            hand_on(signal.SIGTERM, None)

    def kill(number: int, _frame: object) -> None:
        _kill_descendants()
        os._exit(128 + number)

    def hand_on(number: int, _frame: object) -> None:
        if child:
            os.kill(child, number)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGUSR2, hand_on)
    signal.signal(signal.SIGQUIT, kill)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died before the line above took effect
        return 128 + signal.SIGTERM
    try:
        child = os.posix_spawnp(command[0], command, os.environ)
    except OSError as error:
        print(f"cannot start {command[0]}: {error.strerror}", file=sys.stderr)
        return 127
    if asked_to_stop:  # while the command was being started
        hand_on(signal.SIGTERM, None)
    code = os.waitstatus_to_exitcode(_wait(child))
    _kill_descendants()
    return code if code >= 0 else 128 - code


def _wait(child: int) -> int:
    """The status of `child`, reaping what else ends meanwhile."""
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == child:
            return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
