"""The zero-shot form of the paper's own evaluation (github.com/TracyGuo2001/NLoRA, evaluate/), and its problems.

There the prompt is "...### Instruction:\\n{question}\\n\\n### Response: Let's think step by step.", the answer stands
behind "The answer is: ", and the words Instruction and Response end it. Here the frame comes from the template that the
model was trained with: with `template: {kind: paper}` the prompt is the same text.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import model_validator

from pipeline.downloads import Download
from pipeline.errors import UserError
from pipeline.strict import LocalPath
from stages.benchmarks._asked import Asked, prompt_fields

MARKER = "The answer is: "
REPLY_START = " Let's think step by step."
STOP = ("Instruction", "Response")
"""The paper's code lists both with a colon, too, which end an answer at the same place."""
MOST_NAMED = 5


class ZeroShot(Asked):
    """What is asked."""

    reply_start: str = REPLY_START
    """What the answer is made to begin with; part of the prompt and none of what is scored. The space is the paper's;
    leave it out for a chat template, whose assistant's turn begins on a new line. A chat endpoint begins its answers
    itself: there it is "", and the prompt may ask for the same."""
    stop: tuple[str, ...] = STOP
    problems: LocalPath | None = None
    """A file with the data set's own fields; by default the data set on the hub at a pinned revision."""

    @model_validator(mode="after")
    def _the_prompt_shows_the_question(self) -> Self:
        if set(prompt_fields(self.prompt)) != {"question"}:
            raise ValueError(f"prompt: found {self.prompt!r:.60}, expected {{question}} in it and no other field")
        return self


AnyZeroShot = TypeVar("AnyZeroShot", bound=ZeroShot)


def after_marker(text: str) -> str | None:
    """What follows the last marker, or None without one."""
    _, marker, after = text.rpartition(MARKER)
    return after if marker else None


@dataclass(frozen=True)
class Source:
    """A data set: on the hub, in a file, in a mirror folder."""

    benchmark: str
    hub_name: str
    hub_revision: str
    hub_configs: tuple[str, ...]
    fields: tuple[str, ...]
    """Of each row, all texts."""

    def problems(self, config: ZeroShot) -> list[str]:
        """Why the problems cannot be had here and now; one line each."""
        from stages._data import files, hub

        if config.problems is None:
            instead = f"name a file as `problems`, or a folder with {self.benchmark}/test.jsonl as `mirror`"
            line = hub.problem(self.hub_name, self.hub_revision, instead)
        else:
            line = files.problem(config.problems)
        return [f"{self.benchmark}: {line}"] if line else []

    def downloads(self, config: ZeroShot) -> list[Download]:
        """The data set, unless the recipe names a file."""
        from stages._data import hub

        return [hub.files(self.hub_name, self.hub_revision)] if config.problems is None else []

    def on_mirror(self, config: AnyZeroShot, mirror: Path) -> AnyZeroShot:
        """The config with FOLDER/<benchmark>/test.jsonl, if that is there and the recipe names no file."""
        file = mirror / self.benchmark / "test.jsonl"
        if config.problems is not None or not file.is_file():
            return config
        return config.model_copy(update={"problems": file})

    def described(self, config: ZeroShot) -> str:
        """Where the problems are from, for the result."""
        return config.problems.name if config.problems else f"{self.hub_name}@{self.hub_revision}"

    def rows(self, config: ZeroShot) -> list[tuple[str, dict[str, Any]]]:
        """The rows of the test split, each with its place. Raises UserError naming rows that lack a field."""
        from stages._data import files, hub

        if config.problems is None:
            splits = (hub.rows(self.hub_name, self.hub_revision, name, "test") for name in self.hub_configs)
            rows = [row for split in splits for row in split]
            placed = [(f"{self.hub_name}: row {number}", row) for number, row in enumerate(rows, start=1)]
        else:
            placed = list(files.placed_rows(config.problems))
        refuse([line for place, row in placed for line in self._row_problems(place, row)])
        if not placed:
            raise UserError(f"{self.benchmark}: {config.problems} has no rows")
        return placed

    def _row_problems(self, place: str, row: dict[str, Any]) -> list[str]:
        return [
            f"{place}: field {name!r}: found {row.get(name)!r:.40}, expected text"
            for name in self.fields
            if not isinstance(row.get(name), str)
        ]


def refuse(problems: list[str]) -> None:
    """Raises UserError with the first few lines, if there are any."""
    if len(problems) > MOST_NAMED:
        problems = [*problems[:MOST_NAMED], f"and {len(problems) - MOST_NAMED} more problems like these"]
    if problems:
        raise UserError(*problems)
