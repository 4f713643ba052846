"""Which fields of a row are the prompt and the response, as written in a recipe."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field

from pipeline.strict import StrictModel

Message = dict[str, str]


class Example(NamedTuple):
    """What a model is shown and what it shall answer."""

    messages: list[Message]
    response: str


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


Format = Annotated[PromptResponse | Instruction, Field(discriminator="kind")]


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
