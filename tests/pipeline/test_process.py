"""What an error message quotes of a process, and how it is stopped."""

import signal
import sys

from pipeline.process import Process
from pipeline.tail import LONGEST_LINE


def test_the_end_of_a_log_is_of_this_process_and_of_readable_length(tmp_path):
    (tmp_path / "log").write_text("of an earlier run\n")
    process = Process([sys.executable, "-c", "print('x' * 4000); print('the end')"], tmp_path / "log")
    process.poll(30.0)
    first, last = process.log_tail().splitlines()
    process.close()
    assert first == "x" * LONGEST_LINE + " ..." and last == "the end"
    assert process.log_tail(1) == "the end"


def test_who_was_asked_to_stop_is_not_asked_twice(tmp_path):
    """A second request kills."""
    code = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.5), sys.exit(7)))\n"
        "print('ready', flush=True); time.sleep(60)"
    )
    process = Process([sys.executable, "-c", code], tmp_path / "log")
    while "ready" not in process.log_tail():
        assert process.poll(0.05) is None
    process.ask_to_stop()
    process.ask_to_stop()
    assert process.stop() == 7
    process.close()


def test_who_does_not_stop_is_killed(tmp_path):
    code = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)"
    )
    process = Process([sys.executable, "-c", code], tmp_path / "log")
    while "ready" not in process.log_tail():
        assert process.poll(0.05) is None
    assert process.stop(grace_seconds=0.5) == 128 + signal.SIGQUIT
    process.close()
