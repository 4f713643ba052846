"""The plan as a drawing: time runs to the right, a line for every input.

A layered drawing in the manner of Sugiyama (1981): steps in columns, a line that crosses a column gets a place of its
own in it (shared by all lines from the same step), and places are ordered to keep lines short.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from stages._report.read import Step

NODE_WIDTH, NODE_HEIGHT = 150, 46
COLUMN_GAP, ROW_GAP = 28, 12
PASSING_HEIGHT = 4
TRACK_LENGTH = 21
NUM_SWEEPS = 12

Place = tuple[str, int]
"""A step's name and a column: its box in its own column, its passing lines in later ones."""


@dataclass(frozen=True)
class Node:
    """A step with the upper left corner of its box, in SVG units."""

    step: Step
    x: float
    y: float

    @property
    def track(self) -> str:
        """The part of the name before the stage, as far as the box is wide: "math · gsm8k" of "math/gsm8k/score"."""
        text = self.step.name.rpartition("/")[0].replace("/", " · ")
        return text if len(text) <= TRACK_LENGTH else f"{text[: TRACK_LENGTH - 1]}…"


@dataclass(frozen=True)
class Drawing:
    """Nodes and the lines between them (SVG path data), inside width x height."""

    width: float
    height: float
    nodes: tuple[Node, ...]
    lines: tuple[str, ...]


def draw(steps: Mapping[str, Step]) -> Drawing:
    """Lay the steps out. `steps` has inputs before the steps that read them."""
    column_of = _columns(steps)
    links = _links(steps, column_of)
    columns = _ordered(column_of, links)
    centres = _centres(columns, links, column_of)
    top = min((centres[each] - _height(each, column_of) / 2 for each in centres), default=0) - 1
    bottom = max((centres[each] + _height(each, column_of) / 2 for each in centres), default=0) + 1
    middles = {name: centres[name, column] - top for name, column in column_of.items()}
    nodes = [Node(step, 1 + _left(column_of[n]), middles[n] - NODE_HEIGHT / 2) for n, step in steps.items()]
    lines = [_curve(start, end, centres, top) for start, end in links]
    lines += [_passage(place, centres, top) for place in centres if place[1] != column_of[place[0]]]
    width = _left(max(column_of.values(), default=0)) + NODE_WIDTH + 2
    return Drawing(width, bottom - top, tuple(nodes), tuple(lines))


def _columns(steps: Mapping[str, Step]) -> dict[str, int]:
    """Each step right of its inputs, and as far right as the rest of its stage where its readers leave room."""
    earliest: dict[str, int] = {}
    for name, step in steps.items():
        earliest[name] = max((earliest[parent] + 1 for parent in step.parents), default=0)
    furthest: dict[str, int] = {}
    for name, step in steps.items():
        furthest[step.stage] = max(earliest[name], furthest.get(step.stage, 0))
    columns: dict[str, int] = {}
    for name in reversed(list(steps)):
        readers = [columns[reader] - 1 for reader in columns if name in steps[reader].parents]
        columns[name] = min([furthest[steps[name].stage], *readers])
    return {name: columns[name] for name in steps}


def _links(steps: Mapping[str, Step], column_of: Mapping[str, int]) -> list[tuple[Place, Place]]:
    """Pairs of places in neighbouring columns that a line joins, each once."""
    links: dict[tuple[Place, Place], None] = {}
    for name, step in steps.items():
        for parent in step.parents:
            for column in range(column_of[parent], column_of[name] - 1):
                links[(parent, column), (parent, column + 1)] = None
            links[(parent, column_of[name] - 1), (name, column_of[name])] = None
    return list(links)


def _ordered(column_of: Mapping[str, int], links: Iterable[tuple[Place, Place]]) -> list[list[Place]]:
    """The places of each column from top to bottom: of many sweeps to and fro, the order with the fewest crossings."""
    found = dict.fromkeys([*column_of.items(), *(place for link in links for place in link)])
    columns: list[list[Place]] = [[] for _ in range(max(column_of.values(), default=-1) + 1)]
    for place in found:
        columns[place[1]].append(place)
    left, right = _neighbours(links)
    best = columns
    for _ in range(NUM_SWEEPS):
        for order, neighbours in ((slice(None), left), (slice(None, None, -1), right)):
            columns = [list(column) for column in columns]
            _sweep(columns[order], neighbours)
            best = min(best, columns, key=lambda each: _num_crossings(each, left))
    return best


def _num_crossings(columns: Sequence[Sequence[Place]], left: Mapping[Place, Sequence[Place]]) -> int:
    """How many pairs of lines cross between neighbouring columns."""
    row = {place: index for column in columns for index, place in enumerate(column)}
    total = 0
    for column in columns:
        ends = [sorted(row[each] for each in left.get(place, ())) for place in column]
        total += sum(a > b for i, upper in enumerate(ends) for lower in ends[i + 1 :] for a in upper for b in lower)
    return total


def _neighbours(links: Iterable[tuple[Place, Place]]) -> tuple[dict[Place, list[Place]], dict[Place, list[Place]]]:
    """Of each place, those it is joined to on its left and on its right."""
    left: dict[Place, list[Place]] = {}
    right: dict[Place, list[Place]] = {}
    for start, end in links:
        right.setdefault(start, []).append(end)
        left.setdefault(end, []).append(start)
    return left, right


def _sweep(columns: Sequence[list[Place]], neighbours: Mapping[Place, Sequence[Place]]) -> None:
    """Sort each column by the mean relative height of its neighbours in the column passed before."""
    heights: dict[Place, float] = {}
    for column in columns:
        wanted = {place: (index + 0.5) / len(column) for index, place in enumerate(column)}
        for place in column:
            if known := [heights[each] for each in neighbours.get(place, ()) if each in heights]:
                wanted[place] = sum(known) / len(known)
        column.sort(key=lambda place: (wanted[place], place))
        heights.update((place, (index + 0.5) / len(column)) for index, place in enumerate(column))


def _centres(
    columns: Sequence[Sequence[Place]], links: Iterable[tuple[Place, Place]], column_of: Mapping[str, int]
) -> dict[Place, float]:
    """The height of every place's middle: near its neighbours on both sides, none on top of another."""
    left, right = _neighbours(links)
    centres: dict[Place, float] = {}
    for column in columns:
        centres.update(_spread(column, [0.0] * len(column), column_of))
    for _ in range(NUM_SWEEPS):
        for column in (*columns, *reversed(columns)):
            wanted = [
                _mean([centres[each] for each in (*left.get(p, ()), *right.get(p, ()))], centres[p]) for p in column
            ]
            centres.update(_spread(column, wanted, column_of))
    return centres


def _spread(column: Sequence[Place], wanted: Sequence[float], column_of: Mapping[str, int]) -> dict[Place, float]:
    """Centres close to the wanted ones, in the column's order, with the gap between boxes kept.

    Least squares under an order: places that would overlap move as one block to their mean (pool adjacent violators).
    """
    offsets, offset = [], 0.0
    for index, place in enumerate(column):
        if index:
            offset += (_height(column[index - 1], column_of) + _height(place, column_of)) / 2 + ROW_GAP
        offsets.append(offset)
    blocks: list[list[float]] = []
    for target, offset in zip(wanted, offsets, strict=True):
        blocks.append([target - offset])
        while len(blocks) > 1 and _mean(blocks[-2]) > _mean(blocks[-1]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    starts = [_mean(block) for block in blocks for _ in block]
    return {place: start + offset for place, start, offset in zip(column, starts, offsets, strict=True)}


def _mean(values: Sequence[float], default: float = 0.0) -> float:
    return sum(values) / len(values) if values else default


def _height(place: Place, column_of: Mapping[str, int]) -> float:
    return NODE_HEIGHT if column_of[place[0]] == place[1] else PASSING_HEIGHT


def _left(column: int) -> float:
    return column * (NODE_WIDTH + COLUMN_GAP)


def _curve(start: Place, end: Place, centres: Mapping[Place, float], top: float) -> str:
    """From the right side of one place to the left side of one in the next column."""
    x1, x2 = 1 + _left(start[1]) + NODE_WIDTH, 1 + _left(end[1])
    y1, y2, middle = centres[start] - top, centres[end] - top, (x1 + x2) / 2
    return f"M{x1:.1f} {y1:.1f}C{middle:.1f} {y1:.1f} {middle:.1f} {y2:.1f} {x2:.1f} {y2:.1f}"


def _passage(place: Place, centres: Mapping[Place, float], top: float) -> str:
    """Straight through a column, between its boxes."""
    x = 1 + _left(place[1])
    return f"M{x:.1f} {centres[place] - top:.1f}H{x + NODE_WIDTH:.1f}"
