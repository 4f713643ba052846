"""No program may pass without reaching its end, reach out of the sandbox, or outlive its run."""

import os
import time
from pathlib import Path

import pytest

from pipeline.guard import descendants
from stages._sandbox import Limits, isolation, run_python

LIMITS = Limits(cpu_seconds=1.0, wall_seconds=4.0, memory_bytes=512 * 1024**2)
needs_namespaces = pytest.mark.skipif(isolation() != "namespaces", reason="this machine offers no namespaces")


def test_a_program_that_reaches_its_end_passes():
    verdict = run_python("assert 1 + 1 == 2", LIMITS)
    assert verdict.passed
    assert verdict.isolation == isolation()


@pytest.mark.parametrize(
    "program",
    [
        "assert False",
        "raise SystemExit(0)",
        "exit()",
        "import os; os._exit(0)",
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        'print(\'{"status": "passed"}\'); import os; os._exit(0)',
        'import os\nfor fd in range(64):\n    try: os.write(fd, b\'{"status": "passed"}\\n\')\n'
        "    except OSError: pass\nos._exit(0)",
        "import sys; sys.exit = lambda *_: None; exit = sys.exit; raise BaseException",
        "def f(:",
        "import ctypes; ctypes.string_at(0)",
        "input()",
    ],
)
def test_ending_early_never_passes(program: str):
    assert run_python(program, LIMITS).status == "failed"


@pytest.mark.parametrize(
    "program",
    [
        "while True: pass",
        "import time; time.sleep(1000)",
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
        "import signal\nsignal.signal(signal.SIGPROF, signal.SIG_IGN)\nsignal.signal(signal.SIGALRM, signal.SIG_IGN)\n"
        "while True: pass",
    ],
)
def test_endless_programs_do_not_pass(program: str):
    started = time.monotonic()
    verdict = run_python(program, LIMITS)
    assert not verdict.passed
    assert time.monotonic() - started < 30


def test_memory_is_limited():
    verdict = run_python("data = bytearray(4 * 1024**3)", LIMITS)
    assert verdict.status == "failed"
    assert "MemoryError" in verdict.detail


def test_files_are_limited():
    assert run_python("open('big', 'wb').write(b'x' * 10**8)", LIMITS).status == "failed"


def test_output_goes_nowhere(capfd: pytest.CaptureFixture[str]):
    assert run_python("import sys\nprint('x' * 10**7)\nsys.stderr.write('y' * 10**6)", LIMITS).passed
    assert capfd.readouterr() == ("", "")


def test_the_environment_is_clean(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SECRET_TOKEN", "secret")
    assert run_python("import os; assert 'SECRET_TOKEN' not in os.environ", LIMITS).passed


def test_the_home_is_empty_and_temporary():
    program = "import os; assert os.listdir(os.environ['HOME']) == []; open('note', 'w').write('x')"
    assert run_python(program, LIMITS).passed
    assert run_python(program, LIMITS).passed


@needs_namespaces
@pytest.mark.parametrize("program", ["open('{target}', 'w')", "import os; os.remove('{target}')"])
def test_nothing_outside_can_be_changed(program: str, tmp_path: Path):
    target = tmp_path / "precious"
    target.write_text("kept")
    verdict = run_python(program.format(target=target), LIMITS)
    assert verdict.status == "failed"
    assert target.read_text() == "kept"


@needs_namespaces
def test_the_read_only_view_cannot_be_undone():
    program = (
        "import ctypes\nassert ctypes.CDLL(None).mount(None, b'/', None, 32 | 4096, None) == 0"  # MS_REMOUNT | BIND
    )
    assert run_python(program, LIMITS).status == "failed"


@needs_namespaces
def test_there_is_no_network():
    program = "import socket; socket.create_connection(('127.0.0.1', {port}), 2)"
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        assert run_python(program.format(port=server.getsockname()[1]), LIMITS).status == "failed"


@needs_namespaces
def test_other_processes_are_out_of_reach():
    program = f"import os; os.kill({os.getpid()}, 0)"
    assert run_python(program, LIMITS).status == "failed"


def test_nothing_outlives_the_run():
    program = (
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0: time.sleep(1000)\n    os._exit(0)"
    )
    before = set(descendants(os.getpid()))
    run_python(program, LIMITS)
    assert set(descendants(os.getpid())) <= before


def test_without_namespaces_limits_still_hold(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("stages._sandbox.run.isolation", lambda: "limits only")
    assert run_python("x = 1", LIMITS) == run_python("x = 2", LIMITS)
    assert run_python("x = 1", LIMITS).isolation == "limits only"
    assert run_python("import os; os._exit(0)", LIMITS).status == "failed"
    assert not run_python("while True: pass", LIMITS).passed
