"""Python source taken apart into top-level statements, with the names each binds and needs.

What a statement needs is found by the compiler's own symbol table, so a function's local variable is not taken for the
global of the same name.
"""

import ast
import re
import symtable
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

FILE = "<answer>"
warnings.filterwarnings("ignore", module=re.escape(FILE))  # "\d" in a model's code is nothing for our log
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
IMPORTS = (ast.Import, ast.ImportFrom)
GIVES = (ast.Return, ast.Yield, ast.YieldFrom)


@dataclass(frozen=True)
class Statement:
    """One top-level statement. `last_line` counts from 1 in the text it was parsed from."""

    node: ast.stmt
    source: str
    last_line: int
    binds: frozenset[str]
    """Global names that exist once it has run."""
    changes: frozenset[str]
    """Global names whose value it changes: `memo[0] = 1`, `primes.append(2)`."""
    uses: frozenset[str]
    """Global names that it or the functions in it look up."""

    @property
    def is_definition(self) -> bool:
        return isinstance(self.node, DEFINITIONS)

    @property
    def is_import(self) -> bool:
        return isinstance(self.node, IMPORTS)

    @property
    def is_future(self) -> bool:
        """Must stand before everything else."""
        return isinstance(self.node, ast.ImportFrom) and self.node.module == "__future__"

    def gives(self, name: str) -> bool:
        """Whether it defines `name` here and anew: no import, no `double = cache(double)`."""
        return name in self.binds and not self.is_import and (self.is_definition or name not in self.uses)

    @property
    def answers(self) -> bool:
        """Whether it can be a solution: no function without a result, such as a prompt's function repeated."""
        is_function = isinstance(self.node, ast.FunctionDef | ast.AsyncFunctionDef)
        return not is_function or any(isinstance(node, GIVES) for node in ast.walk(self.node))


def valid_start(lines: Sequence[str]) -> tuple[int, list[ast.stmt]]:
    """How many lines from the first on are Python, at most, and their statements.

    A syntax error on some line tells that no start with this line in it is valid, so few attempts are needed.
    """
    end = len(lines)
    while end > 0:
        try:
            return end, ast.parse("\n".join(lines[:end]), FILE).body
        except SyntaxError as error:
            end = min(end, error.lineno or end) - 1
        except (RecursionError, MemoryError):  # nested too deeply for any compiler: what is left of it is of no use
            end //= 2
    return 0, []


def statements(lines: Sequence[str], nodes: Iterable[ast.stmt]) -> list[Statement]:
    """Those of `nodes`, as `valid_start` found them in `lines`, that compile."""
    return [statement for node in nodes if (statement := _statement(lines, node))]


def reachable(pool: Sequence[Statement], roots: Iterable[str]) -> list[Statement]:
    """The statements that the names `roots` need, in their order, and all imports.

    Of several functions or classes of one name the first that gives a result counts, as in evalplus. Prints, asserts
    and other examples of use are left out.
    """
    pool = _without_repeats(pool)
    variables = {name for each in pool if isinstance(each.node, ast.Assign | ast.AnnAssign) for name in each.binds}
    wanted, kept = set(roots), set[int]()
    grown = True
    while grown:
        grown = False
        for index, each in enumerate(pool):
            if index not in kept and (_always(each) or wanted & (each.binds | (each.changes & variables))):
                kept.add(index)
                wanted |= each.uses
                grown = True
    return [pool[index] for index in sorted(kept)]


def _statement(lines: Sequence[str], node: ast.stmt) -> Statement | None:
    source = _source(lines, node)
    try:
        table = symtable.symtable(source, FILE, "exec")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    binds = {each.get_name() for each in table.get_symbols() if each.is_assigned() or each.is_imported()}
    return Statement(
        node=node,
        source=source,
        last_line=node.end_lineno or node.lineno,
        binds=frozenset() if _runs_as_script_only(node) else frozenset(binds),
        changes=frozenset(_changed(node)),
        uses=frozenset(_used(table)),
    )


def _source(lines: Sequence[str], node: ast.stmt) -> str:
    """Its text, decorators included; of a line it shares with others (a; b) only its part."""
    decorators = getattr(node, "decorator_list", [])
    if decorators:
        return "\n".join(lines[decorators[0].lineno - 1 : node.end_lineno])
    own = [line.encode() for line in lines[node.lineno - 1 : node.end_lineno]]
    own[-1] = own[-1][: node.end_col_offset]
    own[0] = own[0][node.col_offset :]
    return b"\n".join(own).decode()


def _used(table: symtable.SymbolTable) -> Iterator[str]:
    inner = table.get_type() != "module"
    for symbol in table.get_symbols():
        if symbol.is_global() if inner else symbol.is_referenced():
            yield symbol.get_name()
    for child in table.get_children():
        yield from _used(child)


def _changed(node: ast.stmt) -> Iterator[str]:
    targets: list[ast.expr] = []
    if isinstance(node, ast.Assign):
        targets = node.targets
    elif isinstance(node, ast.AugAssign | ast.AnnAssign):
        targets = [node.target]
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        targets = [node.value.func]
    for target in targets:
        if isinstance(target, ast.Attribute | ast.Subscript):
            root: ast.expr = target
            while isinstance(root, ast.Attribute | ast.Subscript):
                root = root.value
            if isinstance(root, ast.Name):
                yield root.id


def _runs_as_script_only(node: ast.stmt) -> bool:
    """`if __name__ == ...`"""
    return isinstance(node, ast.If) and any(
        isinstance(each, ast.Name) and each.id == "__name__" for each in ast.walk(node.test)
    )


def _always(each: Statement) -> bool:
    """Imports (`eval("math.pi")` names one that no symbol table shows), and what a deep recursion needs."""
    return each.is_import or each.source.startswith("sys.setrecursionlimit(")


def _without_repeats(pool: Sequence[Statement]) -> list[Statement]:
    """One definition of each name; and no import of what is defined (`from solution import double`)."""
    chosen: dict[str, Statement] = {}
    for each in pool:
        if each.is_definition:
            for name in each.binds:
                if name not in chosen or (each.answers and not chosen[name].answers):
                    chosen[name] = each
    return [
        each
        for each in pool
        if (any(chosen[name] is each for name in each.binds) if each.is_definition else True)
        and not (each.is_import and each.binds & chosen.keys())
    ]
