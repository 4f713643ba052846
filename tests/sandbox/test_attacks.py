"""No attack passes, harms the machine or survives: in namespaces, and where there are limits only.

This file runs as whoever starts it, and once more as an ordinary user where that is root (test_ordinary_user.py).
"""

import os
import threading
import time
from collections.abc import Iterator

import pytest

from pipeline.guard import descendants
from stages._sandbox.choice import choose, plans
from stages._sandbox.client import SandboxError, Server
from tests.sandbox import attacks
from tests.sandbox.arena import LIMITS, SECRET, SHORT, Arena, new_arena


@pytest.fixture(scope="module")
def arena() -> Iterator[Arena]:
    os.environ[SECRET] = "secret"
    with new_arena() as each:
        yield each


@pytest.fixture(scope="module", params=["namespaces", "limits only"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    try:
        plan = choose(plan for plan in plans() if plan.namespaces == (request.param == "namespaces"))
    except SandboxError as error:
        pytest.skip(str(error))
    with Server(plan) as each:
        assert each.run("x = 1", LIMITS).passed  # it has started
        yield each


@pytest.fixture
def unharmed(arena: Arena, server: Server) -> Iterator[None]:
    before = descendants(os.getpid())
    yield
    assert arena.harm() == []
    assert descendants(os.getpid()) == before
    assert server.run("x = 1", LIMITS).passed


pytestmark = pytest.mark.usefixtures("unharmed")


@pytest.mark.parametrize("attack", attacks.ENDLESS)
def test_endless_programs_are_ended(server: Server, arena: Arena, attack: str):
    started = time.monotonic()
    assert not arena.run(server, attacks.ENDLESS[attack], SHORT).passed
    assert time.monotonic() - started < 20


LEAVING = attacks.LEAVING | attacks.REDEFINING | attacks.FORGING


@pytest.mark.parametrize("attack", LEAVING)
def test_leaving_before_the_tests_or_lying_about_them_fails(server: Server, arena: Arena, attack: str):
    assert arena.run(server, LEAVING[attack]).status == "failed"


@pytest.mark.parametrize("attack", attacks.REACHING)
def test_nothing_outside_is_reached(server: Server, arena: Arena, attack: str):
    verdict = arena.run(server, attacks.REACHING[attack])
    assert verdict.status == "failed"
    assert verdict.detail.split(":")[0] in EXPECTED_ERRORS, verdict.detail  # not a slip in the attack itself


EXPECTED_ERRORS = ("OSError", "PermissionError", "FileNotFoundError", "ProcessLookupError", "AssertionError")


@pytest.mark.parametrize("attack", attacks.GREEDY)
def test_greed_is_bounded(server: Server, arena: Arena, attack: str):
    verdict = arena.run(server, attacks.GREEDY[attack])
    assert not verdict.passed
    assert attack not in attacks.TOGETHER or verdict.detail == "its processes together took more memory than allowed"


@pytest.mark.parametrize("bomb", ["fork bomb", "fork bomb that sleeps"])
def test_a_fork_bomb_stays_small(server: Server, arena: Arena, bomb: str):
    seen, done = [0], threading.Event()

    def count() -> None:
        while not done.wait(0.02):
            seen.append(len(arena.survivors()))

    counter = threading.Thread(target=count)
    counter.start()
    try:
        assert not arena.run(server, attacks.ENDLESS[bomb], SHORT).passed
    finally:
        done.set()
        counter.join()
    assert 4 < max(seen) <= LIMITS.num_processes


def test_killing_the_parent_and_everything_harms_nobody(server: Server, arena: Arena):
    program = "import os, signal\nfor pid in (os.getppid(), -1):\n    os.kill(pid, signal.SIGKILL)\nassert False"
    assert arena.run(server, program).status == "failed"


def test_a_gigabyte_of_output_goes_nowhere(server: Server, arena: Arena, capfd: pytest.CaptureFixture[str]):
    program = "import os\nfor fd in (1, 2):\n    for _ in range(512): os.write(fd, bytes(1024**2))\nprint('x' * 10**6)"
    assert arena.run(server, program).passed
    assert capfd.readouterr() == ("", "")


def test_a_daemon_dies_with_its_program(server: Server, arena: Arena):
    program = (
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork(): os._exit(0)\n    os.setsid()\n"
        "    time.sleep(10**6)\ntime.sleep(0.2)"
    )
    assert arena.run(server, program).passed
    assert arena.survivors() == []


def test_the_home_is_empty_however_it_was_left(server: Server, arena: Arena):
    program = (
        "import os, shutil\nos.mkdir('a', 0); os.symlink('{outside}', 'b')\n"
        "shutil.rmtree(os.environ['HOME'], ignore_errors=True); open('c', 'w'); assert False"
    )
    assert arena.run(server, program).detail.startswith(("AssertionError", "FileNotFoundError"))
    assert arena.run(server, "import os; assert os.listdir(os.environ['HOME']) == []; open('c', 'w')").passed
