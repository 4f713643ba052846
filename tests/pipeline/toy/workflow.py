"""A recipe of toy stages: numbers are written, added up, and asked of a small server."""

from pydantic import Field

from pipeline.stage import Resources
from pipeline.step import Service, Step
from pipeline.strict import StrictModel
from tests.pipeline.toy import add, ask, number, server


class Track(StrictModel):
    """One number, and the pause its step makes."""

    value: int = Field(ge=0)
    pause_seconds: float = 0.0
    ask: bool = False


class Recipe(StrictModel):
    """`tracks` become number steps, all of them are added up."""

    name: str
    scale: float = Field(1.0, gt=0)
    fail: bool = False
    tracks: dict[str, Track] = {}
    resources: Resources = Resources()


def steps(recipe: Recipe) -> list[Step]:
    """number per track -> one sum; a track with `ask` also asks the server of its number."""
    numbers = {
        name: Step("number", number.Config(value=track.value, pause_seconds=track.pause_seconds), name=f"{name}/number")
        for name, track in recipe.tracks.items()
    }
    asked = [
        Step(
            "ask",
            ask.Config(question=question),
            {"model": numbers[name]},
            name=f"{name}/{question}",
            service=_server(numbers[name]),
        )
        for question in ("first", "second")
        for name, track in recipe.tracks.items()
        if track.ask
    ]
    return [Step("add", add.Config(scale=recipe.scale, fail=recipe.fail), {"numbers": numbers}, name="sum"), *asked]


def _server(step: Step) -> Service:
    return Service("server", server.Config(), {"model": step})


def problems(_recipe: Recipe, _pending: list[Step]) -> list[str]:
    """Nothing is found by looking at several sections together."""
    return []
