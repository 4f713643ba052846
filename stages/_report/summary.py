"""The results as Markdown that reads well in a terminal too."""

from collections.abc import Iterable, Sequence

from stages._report import format as show
from stages._report.duels import Duel
from stages._report.results import Comparison, Results, Score
from stages._report.scores import troubles
from stages._statistics import Interval

SHOWN_IDS = 5
"""Ids of changed items that are listed; results.json has them all."""


def write_summary(
    title: str, description: str, notes: Sequence[str], results: Results, duels: Sequence[Duel] = ()
) -> str:
    """The whole of summary.md. Its tables fit 80 columns."""
    sections = [f"# {title}", description, score_table(results), _legend(results)]
    against = f"Differences from {results.baseline}"
    sections += [_section(against, _joined(difference_table(results), _tests(results), _list(changes(results))))]
    sections += [_section("Win rates", _list(map(_duel, duels))), _section("Answers", answer_table(results))]
    return _joined(*sections, _section("What these numbers are", _list(notes))) + "\n"


def score_table(results: Results) -> str:
    """One row a benchmark, metric and model."""
    rows = [
        [score.benchmark, score.metric, score.model, show.grouped(score.n), _value(score), _interval(score.interval)]
        for score, _ in results.headline
    ]
    return table(["benchmark", "metric", "model", "n", "score", "95 % interval"], rows, num_text=3) if rows else ""


def difference_table(results: Results) -> str:
    """One row a comparison with the baseline; a metric is named where its benchmark has several."""
    rows = [
        [_name(each, results), each.tuned.model, *_difference(each)] for _, each in results.headline if each is not None
    ]
    header = ["benchmark", "model", "difference", "95 % interval", "p", "better/worse"]
    return table(header, rows, num_text=2) if rows else ""


def changes(results: Results) -> list[str]:
    """For each comparison of a main metric, which items went which way."""
    return [
        f"{each.tuned.benchmark}, {each.tuned.model} against {results.baseline}: {_changes(each)}"
        for each in results.comparisons
        if each.paired and each.tuned.primary
    ]


def answer_table(results: Results) -> str:
    """For each evaluation, how many answers were cut off, empty, unparsable, ...; nothing where all were well."""
    rows = [
        [each.benchmark, each.model, show.grouped(len(each.items)), troubles(each).replace("\N{NO-BREAK SPACE}", " ")]
        for each in results.evaluations
    ]
    found = any(row[3] for row in rows)
    header = ["benchmark", "model", "items", "to look at"]
    return table(header, [[*row[:3], row[3] or "none"] for row in rows], num_text=2) if found else ""


def table(header: Sequence[str], rows: Iterable[Sequence[str]], num_text: int) -> str:
    """A Markdown table padded to equal columns; the first `num_text` columns left-aligned, the rest right-aligned."""
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in (header, *rows)]
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(header))]
    dashes = ["-" * (width - 1) for width in widths]
    rule = [f":{each}" for each in dashes[:num_text]] + [f"{each}:" for each in dashes[num_text:]]
    lines = [_pad(cells[0], widths, num_text), rule, *(_pad(row, widths, num_text) for row in cells[1:])]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _pad(row: Sequence[str], widths: Sequence[int], num_text: int) -> list[str]:
    texts = [cell.ljust(width) for cell, width in zip(row[:num_text], widths, strict=False)]
    return texts + [cell.rjust(width) for cell, width in zip(row[num_text:], widths[num_text:], strict=True)]


def _name(each: Comparison, results: Results) -> str:
    several = len(results.headline_metrics(each.tuned.benchmark)) > 1
    return f"{each.tuned.benchmark} {each.tuned.metric}" if several else each.tuned.benchmark


def _value(score: Score) -> str:
    """Without spaces, so that no value is broken over two lines."""
    return show.with_error(show.number(score.value), score.stderr, space="")


def _interval(interval: Interval | None) -> str:
    return show.interval(interval).replace(" ", "")


def _difference(each: Comparison) -> list[str]:
    paired = each.paired
    difference = show.with_error(show.signed(each.difference), paired.stderr if paired else None, space="")
    if paired is None:
        return [difference, *[show.DASH] * 3]
    return [
        difference,
        _interval(paired.interval),
        show.p_value(paired.p_value),
        f"{len(each.fixed)}/{len(each.broken)}",
    ]


def _duel(duel: Duel) -> str:
    turns = f"{duel.wins} turns won, {duel.losses} lost, {duel.ties} tied ({duel.inconsistent} inconsistent)"
    p = show.p_value(duel.paired.p_value)
    return f"{duel.benchmark}, {duel.model} against {duel.opponent}: {turns}, p {p} of a win rate of one half"


def _changes(each: Comparison) -> str:
    assert each.paired
    same = each.paired.n - len(each.fixed) - len(each.broken)
    ways = [
        _named(f"{show.items(len(each.fixed))} better", each.fixed),
        _named(f"{len(each.broken)} worse", each.broken),
    ]
    text = f"{', '.join(ways)}, {same} the same"
    return f"{text}; {each.reason}" if each.reason else text


def _named(text: str, ids: Sequence[str]) -> str:
    more = ", ..." if len(ids) > SHOWN_IDS else ""
    return f"{text} ({', '.join(ids[:SHOWN_IDS])}{more})" if ids else text


def _legend(results: Results) -> str:
    if not results.evaluations:
        return "No benchmark was scored."
    methods = sorted({score.interval.method for score, _ in results.headline if score.interval})
    return f"± is one standard error{_in_brackets(methods, 'intervals: ')}."


def _tests(results: Results) -> str:
    tests = sorted({each.paired.test for _, each in results.headline if each and each.paired})
    return f"Paired over equal items; p is two-sided{_in_brackets(tests)}." if tests else ""


def _in_brackets(names: Sequence[str], before: str = "") -> str:
    return f" ({before}{', '.join(names)})" if names else ""


def _joined(*sections: str) -> str:
    return "\n\n".join(section for section in sections if section)


def _section(title: str, body: str) -> str:
    return f"## {title}\n\n{body}" if body else ""


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
