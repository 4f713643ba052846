"""The results as Markdown that reads well in a terminal too."""

from collections.abc import Iterable, Sequence

from stages._report import format as show
from stages._report.results import Comparison, Results, Score

SHOWN_IDS = 10
"""Ids of changed items that are listed; results.json has them all."""


def write_summary(title: str, description: str, notes: Sequence[str], results: Results) -> str:
    """The whole of summary.md."""
    sections = [f"# {title}", description, score_table(results), _legend(results)]
    sections += [_section("Items that changed", _list(changes(results))), _section("Answers", answer_table(results))]
    return "\n\n".join(each for each in [*sections, _section("What these numbers are", _list(notes))] if each) + "\n"


def score_table(results: Results) -> str:
    """One row a benchmark, metric and model, beside the baseline where there is something to compare."""
    header, num_text = ["benchmark", "metric", "model", "n", "score", "95 % interval"], 3
    compared = bool(results.comparisons)
    header += ["difference", "p", "better/worse"] if compared else []
    rows = [
        [score.benchmark, score.metric, score.model, *_numbers(score), *(_difference(comparison) if compared else [])]
        for score, comparison in results.headline
    ]
    return table(header, rows, num_text) if rows else ""


def changes(results: Results) -> list[str]:
    """For each comparison of a main metric, which items went which way."""
    return [
        f"{each.tuned.benchmark}, {each.tuned.model} against {results.baseline}: {_changes(each)}"
        for each in results.comparisons
        if each.paired and each.tuned.primary
    ]


def answer_table(results: Results) -> str:
    """For each evaluation, how many answers were cut off, empty, unparsable, ...; what never occurred is left out."""
    kinds = count_kinds(results)
    rows = [
        [each.benchmark, each.model, *map(show.grouped, [len(each.items), *map(each.counts.get, kinds)])]
        for each in results.evaluations
    ]
    return table(["benchmark", "model", "items", *kinds], rows, num_text=2) if kinds else ""


def count_kinds(results: Results) -> list[str]:
    """The names of everything that was counted beside the scores and did occur, in their first order."""
    return list(dict.fromkeys(kind for each in results.evaluations for kind, number in each.counts.items() if number))


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


def _numbers(score: Score) -> list[str]:
    """Without spaces, so that the table fits a narrow terminal and no value is broken over two lines."""
    value = show.with_error(show.number(score.value), score.stderr, space="")
    return [show.grouped(score.n), value, show.interval(score.interval).replace(" ", "")]


def _difference(comparison: Comparison | None) -> list[str]:
    if comparison is None:
        return [show.DASH] * 3
    paired = comparison.paired
    difference = show.with_error(show.signed(comparison.difference), paired.stderr if paired else None, space="")
    if paired is None:
        return [difference, show.DASH, show.DASH]
    return [difference, show.p_value(paired.p_value), f"{len(comparison.fixed)}/{len(comparison.broken)}"]


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
    lines = [f"± is one standard error{_in_brackets(methods, 'intervals: ')}."]
    tests = sorted({each.paired.test for each in results.comparisons if each.paired})
    if results.comparisons:
        lines.append(
            f"Differences from {results.baseline} are paired over equal items; p is two-sided{_in_brackets(tests)}."
        )
    return " ".join(lines)


def _in_brackets(names: Sequence[str], before: str = "") -> str:
    return f" ({before}{', '.join(names)})" if names else ""


def _section(title: str, body: str) -> str:
    return f"## {title}\n\n{body}" if body else ""


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
