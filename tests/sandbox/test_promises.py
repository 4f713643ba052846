"""What a weaker machine cannot enforce is said in the result, and it is just that which then succeeds."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest

from stages._sandbox.choice import choose, plans
from stages._sandbox.client import SandboxError, Server
from stages._sandbox.inside.plan import Plan
from tests.sandbox import attacks
from tests.sandbox.arena import LIMITS, Arena, new_arena


@pytest.fixture
def arena() -> Iterator[Arena]:
    with new_arena() as each:
        yield each


def limits_only() -> Plan:
    return choose(plans(namespaces=False))


@pytest.mark.parametrize(
    ("lacking", "promise", "attack"),
    [
        ("landlock", "read-only files", "overwrite a file"),
        ("landlock", "read-only files", "write in /dev/shm"),
        ("landlock", "homes and temporary files unreadable", "read a file in /tmp"),
        ("seccomp", "no network", "connect to this machine"),
        ("seccomp", "no network", "a socket file"),
    ],
)
def test_what_a_kernel_lacks_is_said(arena: Arena, lacking: str, promise: str, attack: str):
    whole = limits_only()
    if not (whole.landlock and whole.seccomp):
        pytest.skip("this kernel lacks it to begin with")
    assert promise not in whole.missing(is_root=False)
    weaker = replace(whole, landlock=lacking != "landlock", seccomp=lacking != "seccomp")
    assert promise in weaker.missing(is_root=False)
    for plan, succeeds in ((whole, False), (weaker, True)):
        with Server(plan) as server:
            assert arena.run(server, attacks.REACHING[attack]).passed == succeeds
    subprocess.run(["rm", "-f", f"/dev/shm/{arena.marker}"], check=True)


MANY_PROCESSES = "import os, time\nfor _ in range(60):\n    if os.fork() == 0: time.sleep(60)\ntime.sleep(60)"


@pytest.mark.skipif(os.geteuid() != 0, reason="the kernel bounds an ordinary user's processes")
@pytest.mark.parametrize("own_user", [True, False])
def test_processes_of_root_are_bound_as_another_user_or_watched(arena: Arena, own_user: bool):
    plans_here = [plan for plan in plans() if plan.own_user == own_user and not plan.read_everything]
    plan = choose(plans_here)
    assert (plan.missing(is_root=True) == ()) == own_user
    with Server(plan) as server:
        verdict = arena.run(server, MANY_PROCESSES)
    error = "BlockingIOError: " if own_user else "it started more processes than allowed"
    assert verdict.status == "failed" and verdict.detail.startswith(error)
    assert arena.survivors() == []


@pytest.mark.parametrize("mode", ["namespaces", "limits only"])
def test_other_processes_of_the_user_leave_a_program_its_own(mode: str):
    try:
        plan = choose(plan for plan in plans() if plan.namespaces == (mode == "namespaces"))
    except SandboxError as error:
        pytest.skip(str(error))
    program = (
        "import threading, time\nthreads = [threading.Thread(target=time.sleep, args=(0.1,)) for _ in range(16)]\n"
        "for thread in threads: thread.start()"
    )
    others = [subprocess.Popen(["sleep", "60"]) for _ in range(LIMITS.num_processes * 2)]
    try:
        with Server(plan) as server:
            verdict = server.run(program, replace(LIMITS, memory_bytes=2 * 1024**3))  # a thread reserves 72 MiB
    finally:
        for each in others:
            each.kill()
            each.wait()
    assert verdict.passed, verdict.detail


OLD_KERNEL = """
import errno, sys
from stages._sandbox.inside import kernel, seccomp
from stages._sandbox.run import run_python
missing = [(seccomp.LOAD, 0, 0, 0), (seccomp.EQUAL, 0, 1, kernel.SYS_MOUNT_SETATTR),
           (seccomp.RETURN, 0, 0, seccomp.ERRNO | errno.ENOSYS), seccomp.PERMIT]
kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
seccomp.apply(seccomp.pack(missing))
for place in ("/usr", "/", "/dev/shm", sys.prefix, {outside!r}):
    verdict = run_python(f"import os; os.chdir({{place!r}}); open('x', 'w')")
    print(verdict.status, verdict.isolation, verdict.detail.split("]")[0])
print(run_python("import os; assert os.path.exists({outside!r}); open('x', 'w')").status)
"""


def test_an_older_kernel_makes_it_read_only_as_well(arena: Arena):
    expected = "namespaces" if choose(plans()).namespaces else "limits only"
    if expected == "limits only":
        pytest.skip("this machine offers no namespaces")
    code = OLD_KERNEL.format(outside=str(arena.outside))
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    *attempts, last = result.stdout.splitlines()
    assert last == "passed", result.stderr
    for attempt in attempts:
        assert attempt.startswith(("failed namespaces OSError: [Errno 30", "failed namespaces FileNotFoundError"))
    assert len(attempts) == 5 and sum("Errno 30" in attempt for attempt in attempts) >= 4


@pytest.mark.skipif(os.geteuid() != 0, reason="about root in a container")
@pytest.mark.parametrize("dropped", ["-sys_admin", "-all"])
def test_root_without_its_powers_still_finds_a_way(dropped: str):
    code = (
        "from stages._sandbox.run import run_python; print(run_python('x = 1').passed, run_python('assert 0').passed)"
    )
    command = ["setpriv", f"--bounding-set={dropped}", sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.stdout == "True False\n", result.stderr
