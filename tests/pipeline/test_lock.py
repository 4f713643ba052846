"""One holder at every moment: among processes, containers and machines, without flock, whatever clocks say."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import lock as locks
from pipeline.lock import Lock
from tests.pipeline.conftest import ROOT

COMPETE = """
import fcntl, os, random, sys, time
from pathlib import Path
from pipeline import lock as locks

path, witness, place, has_flock, seconds = sys.argv[1:]
flock = fcntl.flock
def refuse(*_): raise OSError(38, "Function not implemented")
if has_flock == "no": fcntl.flock = refuse
if place: locks._place = lambda: place
locks.STALE_SECONDS, locks.HEARTBEAT_SECONDS, locks.POLL_SECONDS = 30.0, 0.3, 0.003
rng, deadline = random.Random(os.getpid()), time.monotonic() + float(seconds)
lock = locks.Lock(Path(path))
while time.monotonic() < deadline:
    if not lock.acquire():
        time.sleep(rng.uniform(0, 0.004))
        continue
    file = os.open(witness, os.O_RDWR | os.O_CREAT)
    try:
        flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os._exit(9)
    if not place and rng.random() < 0.1: os._exit(7)  # and the kernel gives the witness back
    time.sleep(rng.uniform(0, 0.003))
    os.write(1, b".")
    os.close(file)
    lock.release()
"""


def holder(path: Path, place: str = "", then: str = "import time; time.sleep(60)") -> subprocess.Popen[str]:
    """A process that holds the lock, as if it were elsewhere if a place is named."""
    patch = f"locks._place = lambda: {place!r}; " if place else ""
    code = f"from pathlib import Path; from pipeline import lock as locks; {patch}"
    code += f"lock = locks.Lock(Path({str(path)!r})); print(lock.acquire(), flush=True); {then}"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout and process.stdout.readline() == "True\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


@pytest.fixture
def quick(monkeypatch):
    """Seconds in place of a minute."""
    monkeypatch.setattr(locks, "STALE_SECONDS", 0.5)


@pytest.mark.parametrize("has_flock", ["yes", "no"])
def test_processes_of_several_machines_never_hold_it_together_and_the_dead_are_succeeded(has_flock, tmp_path):
    started = time.monotonic()
    running: list[subprocess.Popen[bytes]] = []
    num_held = num_died = 0
    while time.monotonic() - started < 5.0 or running:
        left = 5.0 - (time.monotonic() - started)
        if left > 0.5 and len(running) < 6:
            place = random.Random(num_held + len(running)).choice(["", "", "another machine"])
            arguments = [tmp_path / "x.lock", tmp_path / "witness", place, has_flock, left]
            running.append(
                subprocess.Popen(
                    [sys.executable, "-c", COMPETE, *map(str, arguments)], cwd=ROOT, stdout=subprocess.PIPE
                )
            )
        for process in [each for each in running if each.poll() is not None]:
            running.remove(process)
            num_held += len(process.communicate()[0])
            assert process.returncode in (0, 7), "two held it" if process.returncode == 9 else process.returncode
            num_died += process.returncode == 7
        time.sleep(0.02)
    assert num_held > 20 and num_died > 0
    assert len(list(tmp_path.glob("x.lock.*"))) <= 2


def test_a_holder_that_was_killed_is_dead_at_once(tmp_path):
    process = holder(tmp_path / "x.lock")
    lock = Lock(tmp_path / "x.lock")
    assert lock.is_held() and not lock.acquire() and lock.holder()["pid"] == process.pid  # type: ignore[index]
    end(process)
    assert not lock.is_held() and lock.acquire()
    assert lock.is_held() and not Lock(lock.path).acquire()
    lock.release()
    assert not lock.is_held() and lock.holder() is None and Lock(lock.path).acquire()


def test_a_process_number_that_another_program_has_now_is_not_the_holder(tmp_path):
    record = {"host": os.uname().nodename, "pid": os.getpid(), "started": "1", "place": locks._place()}
    (tmp_path / "x.lock.4").write_text(json.dumps(record))
    assert not Lock(tmp_path / "x.lock").is_held() and Lock(tmp_path / "x.lock").acquire()


def keep_trying(lock: Lock, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if lock.acquire():
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("ahead_seconds", [-86_400.0, 0.0, 86_400.0])
def test_one_elsewhere_is_alive_while_its_file_changes_whatever_its_clock_says(ahead_seconds, quick, tmp_path):
    path = tmp_path / "x.lock.1"
    path.write_text(json.dumps({"host": os.uname().nodename, "pid": os.getpid(), "started": "1", "place": "elsewhere"}))
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(0.1):
            there = time.time() + ahead_seconds
            os.utime(path, (there, there))

    beating = threading.Thread(target=beat)
    beating.start()
    lock = Lock(tmp_path / "x.lock")
    try:
        assert not keep_trying(lock, 1.5)
    finally:
        stop.set()
        beating.join()
    assert keep_trying(lock, 5.0)


def test_a_first_look_at_one_elsewhere_goes_by_the_file_systems_clock(tmp_path):
    path = tmp_path / "x.lock.1"
    path.write_text(json.dumps({"host": "n2", "pid": 1, "started": "1", "place": "elsewhere"}))
    assert Lock(tmp_path / "x.lock").is_held()
    os.utime(path, (time.time() - 120, time.time() - 120))
    assert not Lock(tmp_path / "x.lock").is_held()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["x.lock.1"]


def test_a_holder_that_slept_too_long_learns_that_it_lost(quick, tmp_path):
    then = "import time\nwhile not lock.is_lost(): time.sleep(0.05)\nlock.release(); print('lost')"
    process = holder(tmp_path / "x.lock", "elsewhere", then)
    process.send_signal(signal.SIGSTOP)
    lock = Lock(tmp_path / "x.lock")
    assert keep_trying(lock, 10.0)
    process.send_signal(signal.SIGCONT)
    assert process.communicate(timeout=30)[0] == "lost\n"
    assert lock.is_held() and not lock.is_lost()


def test_a_heartbeat_tells_of_the_loss(monkeypatch, tmp_path):
    monkeypatch.setattr(locks, "HEARTBEAT_SECONDS", 0.05)
    told = threading.Event()
    lock = Lock(tmp_path / "x.lock")
    lock.on_loss = told.set
    assert lock.acquire()
    assert not told.wait(0.3)
    (tmp_path / "x.lock.2").write_text("{}")
    assert told.wait(10.0)


def test_time_in_which_a_file_server_hangs_does_not_count(quick, tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "LONGEST_LOOK_SECONDS", 0.1)
    (tmp_path / "x.lock.1").write_text(json.dumps({"host": "n2", "pid": 1, "started": "1", "place": "elsewhere"}))
    lock = Lock(tmp_path / "x.lock")
    assert not lock.acquire()
    time.sleep(0.7)
    assert not lock.acquire()


def test_who_was_slow_does_not_get_a_number_that_was_used(tmp_path, monkeypatch):
    """It sees number 1 free; then others take 2 and 3, and tidy up, before it creates 2."""
    slow = Lock(tmp_path / "x.lock")
    (tmp_path / "x.lock.1").write_text("-")
    look: Callable[..., bool] = slow._is_in_use

    def look_and_sleep(*arguments: object) -> bool:
        answer = look(*arguments)
        for path in tmp_path.iterdir():
            path.unlink()
        (tmp_path / "x.lock.3").write_text(json.dumps(locks._myself()))
        return answer

    monkeypatch.setattr(slow, "_is_in_use", look_and_sleep)
    assert not slow.acquire()
    assert [path.name for path in tmp_path.iterdir()] == ["x.lock.3"]


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="needs a process namespace of its own")
def test_two_containers_of_one_host_name_do_not_take_each_other_for_dead(tmp_path):
    code = "from pathlib import Path; from pipeline.lock import Lock; import os, time; "
    code += f"lock = Lock(Path({str(tmp_path / 'x.lock')!r})); "
    code += "print(os.uname().nodename, os.getpid(), lock.acquire(), flush=True); time.sleep(60)"
    container = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", sys.executable, "-c", code]
    first = subprocess.Popen(container, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert first.stdout
    host, pid, acquired = first.stdout.readline().split()
    second = subprocess.Popen(container, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert second.stdout
    try:
        assert (host, acquired) == (os.uname().nodename, "True")
        assert second.stdout.readline().split() == [host, pid, "False"]
        assert Lock(tmp_path / "x.lock").is_held() and not Lock(tmp_path / "x.lock").acquire()
    finally:
        end(first)
        end(second)
