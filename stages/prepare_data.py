"""Bring training data into one form. Reads a source; writes train.jsonl, and validation.jsonl and test.jsonl if any.

One JSON object a line with the source's own field names; which fields mean what is `tokenize`'s business.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, ValidationInfo, field_validator, model_validator

from pipeline.artifact import Artifact
from pipeline.stage import Resources, Workspace
from pipeline.strict import LocalPath, StrictModel
from stages._data import generators

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
    """Local .jsonl, .json, .parquet or .csv files."""

    kind: Literal["files"]
    train: LocalPath
    validation: LocalPath | None = None
    test: LocalPath | None = None


Source = Annotated[Generated | Hub | Files, Field(discriminator="kind")]


class Config(StrictModel):
    """Where the rows come from, and how many of the training rows are set aside for validation."""

    source: Source
    carve_validation: int = Field(default=0, ge=0)
    """So many rows, chosen at random, move from train to validation; only for a source without a validation split."""
    seed: int = Field(default=0, ge=0)
    """Which rows are carved off."""

    @model_validator(mode="after")
    def _one_validation_split(self) -> Self:
        own = self.source.num_validation if isinstance(self.source, Generated) else self.source.validation
        if own and self.carve_validation:
            raise ValueError("carve_validation: the source already has a validation split; remove one of the two")
        return self


class Inputs(StrictModel):
    """None: this is where data enters."""


def preflight(config: Config, resources: Resources, known: dict[str, Artifact]) -> list[str]:
    """Whether the source can be reached."""
    from stages._data import sources

    return sources.problems(config.source)


def run(config: Config, inputs: Inputs, out: Workspace, resources: Resources) -> dict[str, Any]:
    """Write the splits. Raises UserError for a source that cannot be read or is too small."""
    from stages._data import sources

    splits = sources.splits(config.source)
    return {"num_rows": sources.write(splits, out, config.carve_validation, config.seed)}
