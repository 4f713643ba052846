"""A recipe of toy stages: numbers are written, added up, and asked of a small server; its answers are counted."""

from collections.abc import Iterator
from typing import Self

from pydantic import Field, model_validator

from pipeline.stage import Resources
from pipeline.step import Service, Step
from pipeline.strict import StrictModel
from tests.pipeline.toy import add, ask, count, number
from tests.pipeline.toy.server import Config as Server

SCORING = frozenset({"count"})
TRAINING = frozenset({"number"})
KINDS = {"number": "prepare", "ask": "evaluate", "count": "score", "add": "report"}


class Question(StrictModel):
    """What is asked of a track's server."""

    num_answers: int = 1
    pause_seconds: float = 0.0
    fail: bool = False
    after: str | None = None
    """A question of the same track that must be answered before."""


class Track(StrictModel):
    """One number, the pause its step makes, and what its server is asked."""

    value: int = Field(ge=0)
    pause_seconds: float = 0.0
    save_seconds: float | None = None
    fail: bool = False
    ask: bool = False
    """Ask two questions."""
    questions: dict[str, Question] = {}
    server: Server = Server()

    def asked(self) -> dict[str, Question]:
        return self.questions or ({"first": Question(), "second": Question()} if self.ask else {})


class Recipe(StrictModel):
    """`tracks` become number steps, all of them are added up."""

    name: str
    scale: float = Field(1.0, gt=0)
    fail: bool = False
    count: bool = False
    """Whether the answers are counted, and the counts are part of the sum."""
    tracks: dict[str, Track] = {}
    favourite: str | None = None
    """One of the tracks; it means nothing."""
    resources: Resources = Resources()

    @model_validator(mode="after")
    def _knows_its_favourite(self) -> Self:
        if self.favourite and self.favourite not in self.tracks:
            raise ValueError(f"favourite: found {self.favourite}, expected one of {', '.join(self.tracks)}")
        return self


def steps(recipe: Recipe) -> list[Step]:
    """number per track -> ask -> count -> one sum."""
    numbers = _numbers(recipe)
    asked = [step for name, track in recipe.tracks.items() for step in _asked(name, track, numbers[name])]
    counts = {
        step.name: Step("count", count.Config(), {"answers": step}, name=f"{step.name}/count")
        for step in (asked if recipe.count else [])
    }
    inputs = {"numbers": numbers, "counts": counts or None}
    return [Step("add", add.Config(scale=recipe.scale, fail=recipe.fail), inputs, name="sum"), *asked]


def _numbers(recipe: Recipe) -> dict[str, Step]:
    return {
        name: Step(
            "number",
            number.Config(
                value=track.value, pause_seconds=track.pause_seconds, save_seconds=track.save_seconds, fail=track.fail
            ),
            resources=recipe.resources,
            name=f"{name}/number",
        )
        for name, track in recipe.tracks.items()
    }


def _asked(name: str, track: Track, model: Step) -> Iterator[Step]:
    made: dict[str, Step] = {}
    for question_name, question in track.asked().items():
        made[question_name] = Step(
            "ask",
            ask.Config(question=question_name, **question.model_dump(exclude={"after"})),
            {"model": model, "before": made[question.after] if question.after else None},
            name=f"{name}/{question_name}",
            service=_server(track, model),
        )
    yield from made.values()


def _server(track: Track, model: Step) -> Service:
    return Service("server", track.server, {"model": model})


def problems(_recipe: Recipe, _pending: list[Step], _judged: list[Step]) -> list[str]:
    """Nothing is found by looking at several sections together."""
    return []


def answer_owners(recipe: Recipe) -> set[str]:
    """The numbers: their servers' answers are kept under their fingerprints."""
    return {step.fingerprint for step in _numbers(recipe).values()}


def servable(recipe: Recipe) -> dict[str, Service]:
    """Each track's server, and one of a further model."""
    numbers = _numbers(recipe)
    further = {"base": Step("number", number.Config(value=0), name="base/number")}
    services = {name: _server(track, numbers[name]) for name, track in recipe.tracks.items()}
    return {**services, "base": Service("server", Server(), {"model": further["base"]})}
