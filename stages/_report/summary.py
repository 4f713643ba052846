"""The results as Markdown that reads well in a terminal too."""

from collections.abc import Iterable, Sequence

from stages._report import format as show
from stages._report.results import Comparison, Results, Score


def write_summary(title: str, description: str, notes: Sequence[str], results: Results) -> str:
    """The whole of summary.md."""
    sections = [f"# {title}", description, _comparison_table(results), _legend(results), _list(changes(results))]
    sections += [_section("Without a comparison", _alone_table(results))] if results.alone else []
    sections += [_section("Answers", answer_table(results)), _section("What these numbers are", _list(notes))]
    return "\n\n".join(section for section in sections if section) + "\n"


def changes(results: Results) -> list[str]:
    """For each comparison of a main metric, how many items went each way."""
    return [
        f"{each.tuned.benchmark}, {each.tuned.model} against {results.baseline}: {_changes(each)}"
        for each in results.comparisons
        if each.paired and each.tuned.primary
    ]


def answer_table(results: Results) -> str:
    """For each evaluation, how many answers were cut off, empty, unparsable or out of time."""
    kinds = count_kinds(results)
    rows = [
        [each.benchmark, each.model, *map(show.grouped, [len(each.items), *map(each.counts.get, kinds)])]
        for each in results.evaluations
    ]
    return table(["benchmark", "model", "items", *kinds], rows, num_text=2) if kinds else ""


def count_kinds(results: Results) -> list[str]:
    """The names of everything that was counted beside the scores, in their first order."""
    return list(dict.fromkeys(kind for each in results.evaluations for kind in each.counts))


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


def _comparison_table(results: Results) -> str:
    """One row a benchmark and metric; with one tuned model its name heads its column, several have one of their own."""
    if not results.whole:
        return ""
    several = len({each.tuned.model for each in results.whole}) > 1
    tuned = "tuned" if several else results.whole[0].tuned.model
    header = ["benchmark", "metric", *(["model"] if several else []), results.baseline, tuned, "difference", "p", "n"]
    rows = [
        [each.tuned.benchmark, each.tuned.metric, *([each.tuned.model] if several else []), *_numbers(each)]
        for each in results.whole
    ]
    return table(header, rows, num_text=3 if several else 2)


def _alone_table(results: Results) -> str:
    header = ["benchmark", "metric", "model", "score", "n"]
    rows = [[s.benchmark, s.metric, s.model, _value(s), show.grouped(s.n)] for s in results.alone]
    return table(header, rows, num_text=3)


def _numbers(each: Comparison) -> list[str]:
    stderr, p = (each.paired.stderr, each.paired.p_value) if each.paired else (None, None)
    n = each.paired.n if each.paired else each.tuned.n
    difference = show.with_error(show.signed(each.difference), stderr, space="")
    return [_value(each.base), _value(each.tuned), difference, show.p_value(p), show.grouped(n)]


def _changes(each: Comparison) -> str:
    assert each.paired and each.num_fixed is not None and each.num_broken is not None
    same = each.paired.n - each.num_fixed - each.num_broken
    text = f"{show.items(each.num_fixed)} better, {each.num_broken} worse, {same} the same"
    return f"{text} ({each.reason})" if each.reason else text


def _value(score: Score) -> str:
    """Without spaces, so that the table fits a narrow terminal and no value is broken over two lines."""
    return show.with_error(show.number(score.value), score.stderr, space="")


def _legend(results: Results) -> str:
    tests = sorted({each.paired.test for each in results.comparisons if each.paired})
    if not results.evaluations:
        return "No benchmark was scored."
    if not tests:
        return "± is one standard error."
    return f"± is one standard error; differences are paired over equal items, p is two-sided ({', '.join(tests)})."


def _section(title: str, body: str) -> str:
    return f"## {title}\n\n{body}" if body else ""


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
