"""Watch a run for what the kernel does not bound, and end it with all that it started."""

import os
import resource
import select
import signal
import time

from pipeline.guard import descendants
from stages._sandbox.inside import view
from stages._sandbox.inside.plan import Limits, Plan

WATCH_SECONDS = 0.1


def watch(plan: Plan, first: int, limits: Limits, end: float, home: str, user: int) -> tuple[str, float, int]:
    """Why it was killed, if it was; processor seconds; exit code. When this returns nothing of the run is alive."""
    descriptor = os.pidfd_open(first)
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    killed = ""
    while not poll.poll(WATCH_SECONDS * 1000):
        if killed := _excess(plan, limits, home, time.monotonic() > end):
            os.kill(first, signal.SIGKILL)
            break
    _, status, usage = os.wait4(first, 0)
    os.close(descriptor)
    if not plan.namespaces:
        _kill_the_rest(user if plan.own_user else None)
    return killed, usage.ru_utime + usage.ru_stime, exit_code(status)


def _excess(plan: Plan, limits: Limits, home: str, late: bool) -> str:
    if late:
        return "timeout"
    alive = descendants(os.getpid())
    if sum(map(_threads, alive)) > limits.num_processes + 1:  # the first process of a namespace is ours
        return "it started more processes than allowed"
    if sum(map(_resident_bytes, alive)) > limits.memory_bytes:
        return "its processes together took more memory than allowed"
    if not plan.namespaces and _is_larger(home, limits.home_bytes):
        return "its home took more space than allowed"
    return ""


def _threads(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/task"))
    except OSError:  # it has ended
        return 0


def _resident_bytes(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except (OSError, IndexError):  # it has ended
        return 0


def _is_larger(folder: str, limit: int) -> bool:
    """Whether files below take more space, or are more, or deeper, than the home in memory would hold."""
    space, number, folders = 0, 0, [folder]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    number += 1
                    space += entry.stat(follow_symlinks=False).st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
        except (FileNotFoundError, PermissionError):
            continue
        except OSError:
            return True
        if space > limit or number > view.MAX_FILES:
            return True
    return False


def _kill_the_rest(user: int | None) -> None:
    """All below this process, which adopts what its children leave (it is a subreaper)."""
    while True:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        if user is not None:
            _kill_all_of(user)
        for pid in descendants(os.getpid()):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.001)


def _kill_all_of(user: int) -> None:
    """At once, so that nothing can fork away: as that user, who can signal no one else."""
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
            if os.getuid() == user != 0:
                os.kill(-1, signal.SIGKILL)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)


def exit_code(status: int) -> int:
    """128 + the signal that ended a process, as a shell says it."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def processes_of(user: int) -> int:
    """Processes and threads that the kernel counts to `user`."""
    count = 0
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.stat(f"/proc/{name}").st_uid == user:
                count += _threads(int(name))
        except OSError:
            continue
    return count
