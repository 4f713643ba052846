"""The plan as a drawing: one column a kind of step, time running to the right, a line for every input."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stages._report.read import Step

NODE_WIDTH, NODE_HEIGHT = 126, 46
COLUMN_GAP, ROW_GAP = 34, 12


@dataclass(frozen=True)
class Node:
    """A step with the upper left corner of its box, in SVG units."""

    step: Step
    x: float
    y: float

    @property
    def track(self) -> str:
        """The part of the name before the stage: "math/arithmetic" of "math/arithmetic/score"."""
        return self.step.name.rpartition("/")[0].replace("/", " · ")


@dataclass(frozen=True)
class Drawing:
    """Nodes and the paths between them ("d" attributes), inside width x height."""

    width: float
    height: float
    nodes: tuple[Node, ...]
    edges: tuple[str, ...]


def draw(steps: Mapping[str, Step]) -> Drawing:
    """Lay the steps out. `steps` has inputs before the steps that read them."""
    columns = _columns(steps)
    rows = _order(columns, steps)
    tallest = max((len(names) for names in rows), default=0)
    nodes = {
        name: Node(steps[name], 1 + x * (NODE_WIDTH + COLUMN_GAP), 1 + _top(y, len(names), tallest))
        for x, names in enumerate(rows)
        for y, name in enumerate(names)
    }
    edges = [_curve(nodes[parent], nodes[name]) for name in nodes for parent in steps[name].parents]
    width = len(rows) * (NODE_WIDTH + COLUMN_GAP) - COLUMN_GAP + 2
    return Drawing(width, tallest * (NODE_HEIGHT + ROW_GAP) - ROW_GAP + 2, tuple(nodes.values()), tuple(edges))


def _columns(steps: Mapping[str, Step]) -> dict[str, int]:
    """Each step right of its inputs, and as far right as the rest of its stage where its readers leave room."""
    earliest: dict[str, int] = {}
    for name, step in steps.items():
        earliest[name] = max((earliest[parent] + 1 for parent in step.parents), default=0)
    stages = {step.stage: max(earliest[n] for n, s in steps.items() if s.stage == step.stage) for step in steps.values()}
    columns: dict[str, int] = {}
    for name in reversed(steps):
        readers = [columns[reader] - 1 for reader in columns if name in steps[reader].parents]
        columns[name] = min([stages[steps[name].stage], *readers])
    return {name: columns[name] for name in steps}


def _order(columns: Mapping[str, int], steps: Mapping[str, Step]) -> list[list[str]]:
    """The names of each column from top to bottom: near their inputs, then near their readers (two sweeps)."""
    rows: list[list[str]] = [[] for _ in range(max(columns.values(), default=-1) + 1)]
    for name, column in columns.items():
        rows[column].append(name)
    readers = {name: [reader for reader in steps if name in steps[reader].parents] for name in steps}
    for _ in range(2):
        _sweep(rows, {name: steps[name].parents for name in steps})
        _sweep(rows[::-1], readers)
    _sweep(rows, {name: steps[name].parents for name in steps})
    return rows


def _sweep(rows: Sequence[list[str]], neighbours: Mapping[str, Sequence[str]]) -> None:
    """Sort each column by the mean height of its neighbours in the columns already passed."""
    heights: dict[str, float] = {}
    for names in rows:
        wanted = _heights(names)
        for name in names:
            if known := [heights[each] for each in neighbours[name] if each in heights]:
                wanted[name] = sum(known) / len(known)
        names.sort(key=lambda name: (wanted[name], name))
        heights.update(_heights(names))


def _heights(names: Sequence[str]) -> dict[str, float]:
    """Each name's place in its column: 0 at the top, 1 at the bottom."""
    return {name: (index + 0.5) / len(names) for index, name in enumerate(names)}


def _top(y: int, num: int, tallest: int) -> float:
    """The upper edge of box `y` of `num`, the column centred beside the tallest one."""
    return (y + (tallest - num) / 2) * (NODE_HEIGHT + ROW_GAP)


def _curve(start: Node, end: Node) -> str:
    """A path from the right side of one box to the left side of another."""
    x1, y1 = start.x + NODE_WIDTH, start.y + NODE_HEIGHT / 2
    x2, y2 = end.x, end.y + NODE_HEIGHT / 2
    bend = min(x2 - x1, 2 * COLUMN_GAP) / 2
    return f"M{x1:g} {y1:g}C{x1 + bend:g} {y1:g} {x2 - bend:g} {y2:g} {x2:g} {y2:g}"
