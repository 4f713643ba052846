"""What a YAML recipe may say. Each section is the config of the stage of that name."""

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from pipeline.stage import Resources
from pipeline.strict import LocalPath, StrictModel
from stages._data.prompts import Prompt
from stages._serving.endpoint import Endpoint
from stages.adapters.base import AdapterConfig
from stages.benchmarks import AnyBenchmark, AnyScorer
from stages.decontaminate import Overlap
from stages.init_adapter import Config as InitAdapter
from stages.judge import Config as Judge
from stages.merge import Config as Merge
from stages.prepare_data import Config as PrepareData
from stages.prepare_model import Config as PrepareModel
from stages.prepare_model import Dtype, Source
from stages.serve import Config as Serve
from stages.tokenize import Config as Tokenize
from stages.train import Config as Train

BASE = "base"
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.-]*$")]


class OtherModel(PrepareModel):
    """A model that is not trained here."""

    template: Prompt | None = None
    """By default that of its training here, or the chat template of its tokenizer."""
    serve: Serve | None = None
    """By default the recipe's."""

    def prepare(self) -> PrepareModel:
        """The part that makes it a model in the store."""
        return PrepareModel(source=self.source, dtype=self.dtype, num_parameters=self.num_parameters)


class EvaluatedModel(StrictModel):
    """A model that answers the benchmarks as it is: from a `source`, or behind an `endpoint`."""

    source: Source | None = None
    dtype: Dtype = "float32"
    num_parameters: Annotated[int, Field(gt=0)] | None = None
    template: Prompt | None = None
    """By default the chat template of its tokenizer."""
    serve: Serve | None = None
    """By default the recipe's."""
    endpoint: Endpoint | None = None

    @model_validator(mode="after")
    def _is_one_of_the_two(self) -> Self:
        if (self.source is None) == (self.endpoint is None):
            found = "both" if self.source else "none"
            raise ValueError(f"found {found} of `source` and `endpoint`, expected one of them")
        return self

    def prepare(self) -> PrepareModel:
        """The part that makes it a model in the store; not for endpoints."""
        assert self.source
        return PrepareModel(source=self.source, dtype=self.dtype, num_parameters=self.num_parameters)


class JudgedBy(Judge):
    """How answers are judged, and by whom: `model`, else `endpoint`, else the model that wrote them."""

    model: OtherModel | None = None
    opponent: Name | None = None
    """The model whose answers the others are compared with (mode pairwise); by default the baseline."""

    @model_validator(mode="after")
    def _is_one_judge(self) -> Self:
        if self.model and self.endpoint:
            raise ValueError("found both of `model` and `endpoint`, expected one judge")
        if self.opponent and self.mode == "single":
            raise ValueError(f"opponent: found {self.opponent} with mode single, expected it with mode pairwise")
        return self

    def settings(self, serve: Serve) -> Judge:
        """The stage's own part, for a judge that is served like that."""
        own = {name: getattr(self, name) for name in Judge.model_fields}
        template = self.model.template if self.model and self.model.template else self.template
        return Judge(**{**own, "serve": serve.numerics(), "template": template})


class Benchmark(StrictModel):
    """One benchmark: what is asked, how it is judged (where a judge is needed), how it is scored."""

    ask: AnyBenchmark
    data: Literal["own", "track"] = "own"
    """Whether the problems are the benchmark's own, or those of the track's prepared data (its test split)."""
    judge: JudgedBy | None = None
    score: AnyScorer | None = None
    """By default the benchmark's own scorer with its defaults."""


class Track(StrictModel):
    """One training set with the benchmarks that test what it teaches."""

    data: PrepareData
    decontaminate: Overlap | None = None
    """Take out training rows that repeat items of the benchmarks that test this track; {} for the usual rule. Off by
    default: the paper does not do it."""
    tokenize: Tokenize
    benchmarks: dict[Name, Benchmark] = {}


class Recipe(StrictModel):
    """Trains (`tracks`, with `model`, `init` and `train`), evaluates models as they are (`models`), or both."""

    name: Name
    description: str = ""
    seed: int | None = Field(None, ge=0)
    """The seed of the start and of training where these set none of their own. Data has a seed of its own."""
    model: PrepareModel | None = None
    init: InitAdapter | None = None
    train: Train | None = None
    merge: Merge = Merge()
    serve: Serve = Serve()
    tracks: dict[Name, Track] = {}
    models: dict[Name, EvaluatedModel] = {}
    """Answer all benchmarks as they are, each through its own template, beside the trained ones."""
    benchmarks: dict[Name, Benchmark] = {}
    """Answered by every model through its own template; those of a track through the track's."""
    mirror: LocalPath | None = None
    """A folder of benchmark data that is used in place of the hub where it has what a benchmark wants."""
    evaluate_base: bool = True
    """Whether the untouched `model` answers the benchmarks as well, for comparison."""
    baseline: Name | None = None
    """The model that the others are compared with; by default the first of base, tracks, models."""
    resources: Resources = Resources()
    """What this machine gives; never part of a result's identity."""

    def model_names(self) -> list[str]:
        """Everyone who answers benchmarks, in the order of the report."""
        return [*([BASE] if self.model and self.evaluate_base else []), *self.tracks, *self.models]

    def chosen_baseline(self) -> str:
        """Its name."""
        return self.baseline or self.model_names()[0]

    @model_validator(mode="after")
    def _has_what_it_takes(self) -> Self:
        sections = {"model": self.model, "init": self.init, "train": self.train}
        if self.tracks and (missing := [name for name, section in sections.items() if section is None]):
            raise ValueError(f"found tracks without {', '.join(missing)}, expected all of {', '.join(sections)} beside")
        idle = [name for name in ("init", "train") if sections[name] is not None]
        if idle and not self.tracks:
            raise ValueError(f"found {', '.join(idle)} without tracks, expected the data to train on as `tracks`")
        if not self.tracks and not (self.model_names() and self.benchmarks):
            raise ValueError("found nothing to do, expected `tracks` to train, or models and `benchmarks` to evaluate")
        return self

    @model_validator(mode="after")
    def _methods_find_the_states_they_work_on(self) -> Self:
        if self.train and self.init and self.init.adapter.NEEDS_ADAMW and self.train.optimizer != "adamw":
            raise ValueError(
                f"train.optimizer: found {self.train.optimizer} with method {self.init.adapter.method}, which works on "
                f"AdamW's running means; use adamw"
            )
        return self

    @model_validator(mode="after")
    def _what_is_trained_is_not_quantized(self) -> Self:
        if self.train and self.init and self.train.quantize and not isinstance(self.init.adapter, AdapterConfig):
            raise ValueError(
                f"train.quantize: found {self.train.quantize} with method {self.init.adapter.method}, which trains the "
                f"weights that would be quantized; use an adapter method, or leave quantize out"
            )
        return self

    @model_validator(mode="after")
    def _decontamination_has_benchmarks(self) -> Self:
        for name, track in self.tracks.items():
            if track.decontaminate and not track.benchmarks and not self.benchmarks:
                raise ValueError(
                    f"tracks.{name}.decontaminate: found no benchmarks, expected some to compare the data with"
                )
        return self

    @model_validator(mode="after")
    def _adapters_can_be_served(self) -> Self:
        adapter = self.init.adapter if self.init else None
        if adapter is None or self.serve.adapters == "merged":
            return self
        if not isinstance(adapter, AdapterConfig) or adapter.has_magnitude:
            why = "vLLM serves no DoRA" if isinstance(adapter, AdapterConfig) else "it trains no adapter"
            raise ValueError(f"serve.adapters: found lora with method {adapter.method}, but {why}; use merged")
        return self

    @model_validator(mode="after")
    def _names_are_free(self) -> Self:
        clashes = [name for name in (BASE,) if name in self.tracks or name in self.models]
        clashes += sorted(self.tracks.keys() & self.models.keys())
        if clashes:
            raise ValueError(f"found several models named {clashes[0]!r} (`model` itself is {BASE!r}); rename one")
        unknown = {self.baseline or "", *_opponents(self)} - {"", *self.model_names()}
        if unknown:
            known = ", ".join(self.model_names())
            raise ValueError(f"baseline, opponent: found {', '.join(sorted(unknown))}, expected one of {known}")
        return self

    @model_validator(mode="after")
    def _benchmarks_are_named_once(self) -> Self:
        names = [*self.benchmarks, *(name for track in self.tracks.values() for name in track.benchmarks)]
        twice = sorted({name for name in names if names.count(name) > 1})
        shared = self.evaluate_base or self.models or any(name in self.benchmarks for name in twice)
        if twice and shared:
            raise ValueError(f"found {', '.join(twice)} in several places, expected each benchmark's name once")
        own = sorted(name for name, benchmark in self.benchmarks.items() if benchmark.data == "track")
        if own:
            raise ValueError(f"benchmarks.{own[0]}.data: found track outside of one, expected it below a track")
        return self


def _opponents(recipe: Recipe) -> set[str]:
    groups = [recipe.benchmarks, *(track.benchmarks for track in recipe.tracks.values())]
    judges = [benchmark.judge for group in groups for benchmark in group.values()]
    return {judge.opponent for judge in judges if judge and judge.opponent}
