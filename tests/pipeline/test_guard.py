"""Nothing outlives a guard, and a guard does not outlive its parent."""

import os
import signal
import subprocess
import sys
import time

from pipeline.guard import guarded
from tests.pipeline.conftest import ROOT
from tests.pipeline.test_run import _alive, _wait_for


def test_the_exit_code_is_the_commands():
    assert subprocess.run(guarded(["sh", "-c", "exit 3"])).returncode == 3
    assert subprocess.run(guarded(["sh", "-c", "kill -9 $$"])).returncode == 128 + signal.SIGKILL
    missing = subprocess.run(guarded(["no-such-program"]), capture_output=True, text=True)
    assert missing.returncode == 127 and "cannot start no-such-program" in missing.stderr


def test_what_the_command_leaves_behind_is_killed(tmp_path):
    script = f"setsid sleep 100 & echo $! > {tmp_path}/pid"
    subprocess.run(guarded(["sh", "-c", script]), check=True)
    assert not _alive(int((tmp_path / "pid").read_text()))


def test_a_stop_is_handed_on_once_and_sigquit_kills(tmp_path):
    script = f"trap 'echo asked >> {tmp_path}/log' TERM; touch {tmp_path}/ready; while true; do sleep 0.05; done"
    process = subprocess.Popen(guarded(["sh", "-c", script]))
    _wait_for((tmp_path / "ready").exists)
    process.terminate()
    _wait_for((tmp_path / "log").exists)
    assert process.poll() is None
    process.terminate()
    time.sleep(0.2)
    assert process.poll() is None and (tmp_path / "log").read_text() == "asked\n"
    process.send_signal(signal.SIGQUIT)
    assert process.wait(timeout=10) == 128 + signal.SIGQUIT


def test_it_dies_with_its_parent(tmp_path):
    code = (
        f"import subprocess, time; from pipeline.guard import guarded\n"
        f"subprocess.Popen(guarded(['sh', '-c', 'setsid sleep 100 & echo $! > {tmp_path}/pid; wait'])); time.sleep(100)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=os.environ)
    _wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip())
    pid = int((tmp_path / "pid").read_text())
    parent.kill()
    parent.wait()
    _wait_for(lambda: not _alive(pid), 10)
