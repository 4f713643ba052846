"""Reports of workers through output that other nodes write to at the same time."""

import os

from stages._training import reports


def lines_of(capfd, **fields) -> list[bytes]:
    reports.write(**fields)
    return capfd.readouterr().out.encode().splitlines(keepends=True)


def test_a_long_report_is_put_together_again_however_its_lines_are_mixed(capfd, monkeypatch):
    first = {"rank": 1, "tail": ["é" * 900, "x" * 3000]}
    one = lines_of(capfd, **first)
    assert len(one) > 8 and max(map(len, one)) < 1024
    monkeypatch.setattr(os, "getpid", lambda: 1)
    other = lines_of(capfd, rank=2, tail=["y" * 2000])
    reader = reports.Reader()
    mixed = [line for pair in zip(one, [*other, *[b"a line of the log\n"] * 50], strict=False) for line in pair]
    kept = [line for line in mixed if not reader.is_report(line)]
    assert {line.strip() for line in kept} <= {b"", b"a line of the log"}
    assert first in reader.reports
    assert [report["rank"] for report in reader.reports] == [2, 1]


def test_a_report_within_a_line_that_another_node_had_begun_counts(capfd):
    (_, line) = lines_of(capfd, rank=3)
    reader = reports.Reader()
    assert reader.is_report(b"half a lo" + line)
    assert reader.reports == [{"rank": 3}]
