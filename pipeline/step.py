"""One piece of work, and one long-lived server that several pieces of work share."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from pipeline.fingerprint import fingerprint
from pipeline.stage import Resources, load_stage
from pipeline.strict import StrictModel


@dataclass(frozen=True, eq=False)
class Work:
    """A stage's module, its config and its inputs: what a fingerprint is made of."""

    stage: str
    config: StrictModel
    inputs: "Mapping[str, Step | Mapping[str, Step] | None]" = field(default_factory=dict)
    resources: Resources = field(default_factory=Resources)

    @cached_property
    def fingerprint(self) -> str:
        """64 hex digits over stage, version, config and input fingerprints; an absent optional input counts as none."""
        inputs = {
            role: value.fingerprint
            if isinstance(value, Step)
            else {name: step.fingerprint for name, step in value.items()}
            for role, value in self.inputs.items()
            if value is not None
        }
        return fingerprint(self.stage, load_stage(self.stage).VERSION, self.config.canonical(), inputs)

    def dependencies(self) -> "Iterator[Step]":
        """The steps it reads from."""
        for value in self.inputs.values():
            if isinstance(value, Step):
                yield value
            elif value is not None:
                yield from value.values()


@dataclass(frozen=True, eq=False)
class Service(Work):
    """A server that steps use while it runs. Services with equal fingerprints are one server."""


@dataclass(frozen=True, eq=False)
class Step(Work):
    """Work with a result. `name` is what the user calls it, unique in a plan: "math/train"."""

    name: str = ""
    service: Service | None = None

    def all_dependencies(self) -> "Iterator[Step]":
        """What must be sealed before it can run: its inputs and those of its service."""
        yield from self.dependencies()
        if self.service:
            yield from self.service.dependencies()
