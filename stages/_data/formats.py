"""Which fields of a row are the prompt and the response, as written in a recipe."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field

from pipeline.errors import UserError
from pipeline.strict import StrictModel

Message = dict[str, str]

CHUNK = 2000
"""Rows looked at together: enough to keep all cores busy, little enough to forget."""
MAX_PROBLEMS = 10


class Example(NamedTuple):
    """What a model is shown and what it shall answer. A plain text is an answer to nothing."""

    messages: list[Message]
    response: str

    def conversation(self) -> list[Message]:
        """Both as one list of messages."""
        return [*self.messages, {"role": "assistant", "content": self.response}]


class FieldProblem(ValueError):
    """A field that is missing, not text, or empty."""

    def __init__(self, field: str, found: str, is_empty: bool = False) -> None:
        super().__init__(f"field {field!r}: found {found}, expected text")
        self.is_empty = is_empty


class PromptResponse(StrictModel):
    """One field is the prompt, one the response."""

    kind: Literal["prompt_response"]
    prompt: str
    response: str

    def columns(self) -> list[str]:
        """The fields every row must have."""
        return [self.prompt, self.response]

    def example(self, row: Mapping[str, Any]) -> Example:
        """Raises FieldProblem."""
        return Example([_user(text(row, self.prompt))], text(row, self.response))


class Instruction(StrictModel):
    """An instruction, perhaps with an input it is applied to (which may be empty), and the output."""

    kind: Literal["instruction"]
    instruction: str = "instruction"
    input: str | None = "input"
    output: str = "output"

    def columns(self) -> list[str]:
        """The fields every row must have."""
        return [name for name in (self.instruction, self.input, self.output) if name]

    def example(self, row: Mapping[str, Any]) -> Example:
        """Instruction and input stand one below the other. Raises FieldProblem."""
        parts = [text(row, self.instruction)]
        if self.input and row.get(self.input):
            parts.append(text(row, self.input))
        return Example([_user("\n\n".join(parts))], text(row, self.output))


ROLES = {"system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}
"""The speakers of OpenAI's and of ShareGPT's layout, in OpenAI's words."""


class Conversation(StrictModel):
    """A list of turns, {"role", "content"} or ShareGPT's {"from", "value"}; the last assistant turn is the response.

    Earlier turns are what the model is shown; what follows the last assistant turn is left out.
    """

    kind: Literal["conversation"]
    field: str = "messages"

    def columns(self) -> list[str]:
        """The fields every row must have."""
        return [self.field]

    def example(self, row: Mapping[str, Any]) -> Example:
        """Raises FieldProblem."""
        turns = [self._turn(row, number) for number in range(len(self._turns(row)))]
        answers = [number for number, turn in enumerate(turns) if turn["role"] == "assistant"]
        if not answers or "user" not in {turn["role"] for turn in turns[: answers[-1]]}:
            raise FieldProblem(self.field, "no assistant turn after a user turn")
        return Example(turns[: answers[-1]], turns[answers[-1]]["content"])

    def _turns(self, row: Mapping[str, Any]) -> list[Any]:
        turns = row.get(self.field)
        if not isinstance(turns, list):
            raise FieldProblem(
                self.field, "no such field" if turns is None else f"{type(turns).__name__} {turns!r:.40}"
            )
        return turns

    def _turn(self, row: Mapping[str, Any], number: int) -> Message:
        name, turn = f"{self.field}[{number}]", row[self.field][number]
        if not isinstance(turn, Mapping):
            raise FieldProblem(name, f"{type(turn).__name__} {turn!r:.40}")
        role = turn.get("role", turn.get("from"))
        if role not in ROLES:
            raise FieldProblem(f"{name}.role", f"{role!r}")
        content = text({name: turn.get("content", turn.get("value"))}, name)
        return {"role": ROLES[role], "content": content}


class Text(StrictModel):
    """A plain text, such as a document: no prompt, no template, all of it is learnt."""

    kind: Literal["text"]
    field: str = "text"

    def columns(self) -> list[str]:
        """The fields every row must have."""
        return [self.field]

    def example(self, row: Mapping[str, Any]) -> Example:
        """Raises FieldProblem."""
        return Example([], text(row, self.field))


AnswerFormat = Annotated[PromptResponse | Instruction | Conversation, Field(discriminator="kind")]
"""Those that have a prompt and a response."""
Format = Annotated[PromptResponse | Instruction | Conversation | Text, Field(discriminator="kind")]


class Chunk(NamedTuple):
    """Some rows of a file: how many they were, and (number from 1, example) of those that are not empty."""

    num_rows: int
    examples: list[tuple[int, Example]]


def chunks(
    format: Format, rows: Iterable[Mapping[str, Any]], where: str, drop_empty: bool, size: int = CHUNK
) -> Iterator[Chunk]:
    """All rows, some at a time. Raises UserError, starting with `where`, for a column that the first row lacks and for
    fields that are no text (of the first chunk that has some; the first few of them by row and field).
    """
    rows, done = iter(rows), 0
    while part := list(islice(rows, size)):
        if not done:
            check_columns(format, part[0], where)
        yield Chunk(len(part), list(_examples(format, part, where, done, drop_empty)))
        done += len(part)


def check_columns(format: Format, row: Mapping[str, Any], where: str) -> None:
    """Raises UserError listing the columns of a row if a named one is not among them."""
    missing = [name for name in format.columns() if name not in row]
    if missing:
        raise UserError(
            f"format: {where} has no column {', '.join(map(repr, missing))}; it has {', '.join(map(repr, row))}"
        )


def _examples(
    format: Format, rows: list[Mapping[str, Any]], where: str, done: int, drop_empty: bool
) -> Iterator[tuple[int, Example]]:
    problems: list[str] = []
    for number, row in enumerate(rows, start=done + 1):
        try:
            yield number, format.example(row)
        except FieldProblem as problem:
            if not (problem.is_empty and drop_empty):
                hint = " (on_empty: drop leaves such rows out)" if problem.is_empty else ""
                problems.append(f"{where}: row {number}: {problem}{hint}")
    if problems:
        more = [f"{where}: and {len(problems) - MAX_PROBLEMS} more"] if len(problems) > MAX_PROBLEMS else []
        raise UserError(*problems[:MAX_PROBLEMS], *more)


def text(row: Mapping[str, Any], field: str) -> str:
    """The text of a field. Raises FieldProblem if there is none."""
    value = row.get(field)
    if not isinstance(value, str):
        raise FieldProblem(field, "no such field" if field not in row else f"{type(value).__name__} {value!r:.40}")
    if not value.strip():
        raise FieldProblem(field, "nothing", is_empty=True)
    return value


def _user(content: str) -> Message:
    return {"role": "user", "content": content}
