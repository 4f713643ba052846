"""What a person reads while a run goes on."""

import pytest

from pipeline.display import PlainDisplay, describe, duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.44, "0.4s"), (9.96, "10.0s"), (58.2, "58s"), (190, "3m10s"), (59.7, "1m00s"), (7500, "2h05m")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_progress_has_a_share_an_eta_and_the_metrics():
    progress = {"done": 30, "total": 120, "metrics": {"loss": 0.41234, "tokens_per_second": 148.0}}
    assert describe(60.0, progress) == "30/120 25%  ETA 3m00s  loss 0.4123  tokens_per_second 148"
    assert describe(60.0, {}) == ""


def test_plain_lines_end_with_the_last_metrics(capsys):
    display = PlainDisplay()
    display.started("math/train", "5/21")
    display.tick("math/train", 1.0, {"done": 1, "total": 2, "metrics": {"loss": 0.5}})
    display.finished("math/train", 2.0)
    assert capsys.readouterr().out == "   5/21  math/train ...\n   done  math/train  2.0s  loss 0.5\n"
