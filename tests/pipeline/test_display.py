"""What a person reads while a run goes on."""

import pytest

from pipeline.display import LiveDisplay, PlainDisplay, describe, duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.44, "0.4s"), (9.96, "10.0s"), (58.2, "58s"), (190, "3m10s"), (59.7, "1m00s"), (7500, "2h05m")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_progress_has_a_share_an_eta_and_the_metrics():
    progress = {"done": 30, "total": 120, "metrics": {"loss": 0.41234, "tokens_per_second": 148.0}}
    assert describe(60.0, progress) == "30/120 25%  ETA 3m00s  loss 0.4123  tokens_per_second 148"
    assert describe(60.0, {**progress, "seconds_left": 70.0}).startswith("30/120 25%  ETA 1m10s  ")
    assert describe(60.0, {}) == ""


def test_plain_lines_end_with_the_last_metrics(capsys):
    display = PlainDisplay()
    display.started("math/train", "5/21")
    display.tick("math/train", 1.0, {"done": 1, "total": 2, "metrics": {"loss": 0.5}})
    display.finished("math/train", 2.0)
    assert capsys.readouterr().out == "   5/21  math/train ...\n   done  math/train  2.0s  loss 0.5\n"


def test_steps_at_once_keep_their_own_progress(capsys):
    display = PlainDisplay()
    for name in ("a", "b", "c"):
        display.started(name, "1/3")
        display.tick(name, 1.0, {"metrics": {"answers": name}})
    display.finished("a", 2.0)
    display.stopped("b")
    display.failed("c")
    display.note("a word between")
    expected = "    1/3  a ...\n    1/3  b ...\n    1/3  c ...\n   done  a  2.0s  answers a\n"
    expected += "stopped  b\n failed  c\na word between\n"
    assert capsys.readouterr().out == expected


def test_a_terminal_shows_a_moving_line_for_each_step_that_runs(monkeypatch):
    shown: list[str] = []
    display = LiveDisplay()
    display.close()
    monkeypatch.setattr(display._status, "update", shown.append)
    display.started("a", "1/3")
    display.started("b", "2/3")
    display.started("c", "3/3")
    display.failed("c")
    display.tick("a", 3.0, {"done": 1, "total": 2})
    assert [line.strip() for line in shown[-1].splitlines()] == [
        "[dim]1/3[/] a  [cyan]3.0s[/]  1/2 50%  ETA 3.0s",
        "[dim]2/3[/] b",
    ]
    display.finished("a", 4.0)
    assert shown[-1] == "[dim]2/3[/] b"
    display.stopped("b")
    assert shown[-1] == ""
