"""Bring training data into one form. Reads a source; writes train.jsonl, and validation.jsonl and test.jsonl if any.

One JSON object a line with the source's own field names; which fields mean what is `tokenize`'s business. Only a part
of a mix may say so itself: its rows become {"messages": [...]}, so that parts of different fields fit together.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, ValidationInfo, field_validator, model_validator

from pipeline.artifact import Artifact
from pipeline.content import content_digest
from pipeline.downloads import Download
from pipeline.stage import Needs, Resources, Workspace
from pipeline.strict import LocalPath, StrictModel
from stages import _needs
from stages._data import files, generators
from stages._data.formats import AnswerFormat

VERSION = 1


class Generated(StrictModel):
    """Problems made here by a generator of `stages/_data/generators`."""

    kind: Literal["generated"]
    generator: str
    seed: int = Field(ge=0)
    num_train: int = Field(gt=0)
    num_validation: int = Field(default=0, ge=0)
    num_test: int = Field(default=0, ge=0)
    options: dict[str, int | float | str | bool] = {}
    """The generator's own options, checked against its `Options`."""

    @field_validator("generator")
    @classmethod
    def _check_generator(cls, name: str) -> str:
        generators.load(name)
        return name

    @field_validator("options")
    @classmethod
    def _check_options(cls, options: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if "generator" in info.data:
            generators.options(info.data["generator"], options)
        return options

    def canonical(self) -> dict[str, Any]:
        """Options in the generator's own canonical form, so that they follow the rules for defaults and VERSION."""
        options = generators.options(self.generator, self.options)
        fields = {key: value for key, value in super().canonical().items() if key != "options"}
        return {**fields, "options": options.canonical()}


class Hub(StrictModel):
    """A data set on the Hugging Face hub at one commit. HF_ENDPOINT, HF_HUB_OFFLINE and HF_TOKEN are respected."""

    kind: Literal["hub"]
    name: str
    revision: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")]
    """The full commit hash: a branch or tag could change under a cached result."""
    config_name: str | None = None
    train: str = "train"
    """A split or a slice of it, such as `train[:100000]`."""
    validation: str | None = None
    test: str | None = None


class Files(StrictModel):
    """Local .jsonl, .json, .parquet or .csv files, or some rows of one, such as `rows.jsonl[:1000]`."""

    kind: Literal["files"]
    train: LocalPath
    validation: LocalPath | None = None
    test: LocalPath | None = None

    def canonical(self) -> dict[str, Any]:
        """Files by content, slices by their bounds."""
        named = {split: path for split in ("train", "validation", "test") if (path := getattr(self, split))}
        return {**super().canonical(), **{split: _file_identity(path) for split, path in named.items()}}


def _file_identity(path: Path) -> dict[str, Any]:
    file, part = files.sliced(path)
    rows = {"rows": [part.start or 0, part.stop]} if part != slice(None) else {}
    return {"content": content_digest(file), **rows}


SingleSource = Annotated[Generated | Hub | Files, Field(discriminator="kind")]


PartName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.-]*$")]


class Part(StrictModel):
    """One source of a mix, and how much of it."""

    source: SingleSource
    format: AnswerFormat | None = None
    """Turns rows into {"messages": [...]}, to be tokenised with `format: {kind: conversation}`; without it they stay as
    they are."""
    on_empty: Literal["refuse", "drop"] = "refuse"
    """What to do with rows whose prompt or response is empty, as far as `format` tells."""
    weight: float | None = Field(default=None, gt=0)
    """Its share of the mixed rows, relative to the other weights."""
    count: int | None = Field(default=None, gt=0)
    """So many rows, chosen at random."""
    repeat: bool = False
    """Whether rows may be taken again when there are fewer than are wanted. Without it that is an error."""

    def has_validation(self) -> bool:
        """Whether its source has a validation split of its own."""
        return _has_validation(self.source)

    def has_test(self) -> bool:
        """Whether its source has a test split."""
        return bool(self.source.num_test if isinstance(self.source, Generated) else self.source.test)


class Mix(StrictModel):
    """Training rows of several sources, by weight or by count, in random order.

    Validation rows are those of all parts, one part after the other. At most one part may have a test split, which
    stays as it is: benchmarks read it by its own field names.
    """

    kind: Literal["mix"]
    parts: dict[PartName, Part] = Field(min_length=1)
    num_rows: int | None = Field(default=None, gt=0)
    """Training rows altogether, with weights; by default as many as keep the shares without repeating a row."""

    @model_validator(mode="after")
    def _weights_or_counts(self) -> Self:
        weights = [name for name, part in self.parts.items() if part.weight is not None]
        counts = [name for name, part in self.parts.items() if part.count is not None]
        if sorted(weights + counts) != sorted(self.parts) or (weights and counts):
            found = f"weight for {', '.join(weights) or 'none'}, count for {', '.join(counts) or 'none'}"
            raise ValueError(f"found {found}, expected a weight for each part or a count for each part")
        if counts and self.num_rows:
            raise ValueError("num_rows: found it beside counts, expected weights; the counts already say it")
        if weights and not self.num_rows and all(part.repeat for part in self.parts.values()):
            raise ValueError("num_rows: found none with repeat for each part, expected a number: nothing else ends it")
        tested = [name for name, part in self.parts.items() if part.has_test()]
        if len(tested) > 1:
            raise ValueError(f"found a test split in {', '.join(tested)}, expected one at most")
        return self


Source = Annotated[Generated | Hub | Files | Mix, Field(discriminator="kind")]


def _has_validation(source: Generated | Hub | Files | Mix) -> bool:
    if isinstance(source, Mix):
        return any(part.has_validation() for part in source.parts.values())
    return bool(source.num_validation if isinstance(source, Generated) else source.validation)


class Config(StrictModel):
    """Where the rows come from, and how many of the training rows are set aside for validation."""

    source: Source
    carve_validation: int = Field(default=0, ge=0)
    """So many rows, chosen at random, move from train to validation; only for a source without a validation split."""
    seed: int = Field(default=0, ge=0)
    """Which rows are carved off, and which rows of a mix are taken, in which order. The recipe's seed does not count:
    runs that differ in it alone train on the same data."""

    @model_validator(mode="after")
    def _one_validation_split(self) -> Self:
        if _has_validation(self.source) and self.carve_validation:
            raise ValueError("carve_validation: the source already has a validation split; remove one of the two")
        return self


class Inputs(StrictModel):
    """None: this is where data enters."""


def downloads(config: Config, roles: frozenset[str]) -> list[Download]:
    """The data sets of the hub."""
    from stages._data import hub

    source = config.source
    parts = [part.source for part in source.parts.values()] if isinstance(source, Mix) else [source]
    return [hub.files(part.name, part.revision) for part in parts if isinstance(part, Hub)]


def preflight(config: Config, resources: Resources, known: dict[str, Artifact]) -> list[str]:
    """Whether the source can be reached."""
    from stages._data import sources

    return sources.problems(config.source)


def needs(config: Config, resources: Resources, known: dict[str, Artifact]) -> Needs:
    """Rows are streamed."""
    return _needs.streaming()


def run(config: Config, inputs: Inputs, out: Workspace, resources: Resources) -> dict[str, Any]:
    """Write the splits. Raises UserError for a source that cannot be read or is too small."""
    from stages._data import mixing, sources

    sources.clear(out)
    if isinstance(config.source, Mix):
        parts = {"parts": mixing.write(config.source, out, config.seed)}
    else:
        parts = {}
        sources.write(config.source, out)
    return {"num_rows": sources.finish(out, config.carve_validation, config.seed), **parts}
