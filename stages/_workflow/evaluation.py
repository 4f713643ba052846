"""The steps of benchmarks: who is asked what, who judges it, how it is scored.

    generate -> (judge ->) score

The untouched model answers every track's benchmarks too, through that track's template. One server answers for a model,
or for all adapters of one base.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from pipeline.stage import Resources
from pipeline.step import Service, Step
from stages._data.prompts import Prompt
from stages._serving.endpoint import Endpoint
from stages._workflow.problems import asked
from stages._workflow.recipe import BASE, Benchmark, EvaluatedModel, JudgedBy, OtherModel, Recipe, Track
from stages._workflow.training import Trained
from stages.benchmarks import benchmark_module
from stages.generate import Config as Generate
from stages.prepare_model import Config as PrepareModel
from stages.score import Config as Score
from stages.serve import Config as Serve


@dataclass(frozen=True)
class Respondent:
    """Someone who answers: a model, a model with an adapter on it, or an endpoint."""

    name: str
    serve: Serve
    model: Step | None = None
    adapter: Step | None = None
    adapters: Mapping[str, Step] = field(default_factory=dict)
    """All that its server has."""
    tokens: Step | None = None
    """Of a track, whose template it is asked through; else its own, or `template`."""
    template: Prompt | None = None
    endpoint: Endpoint | None = None

    def service(self, resources: Resources) -> Service | None:
        """The server that it needs."""
        if self.model is None or self.serve.engine == "transformers":
            return None
        adapters = {"adapters": self.adapters} if self.adapters else {}
        return Service("serve", self.serve, {"model": self.model, **adapters}, resources=resources)


@dataclass(frozen=True)
class Round:
    """One benchmark and all who answer it."""

    name: str
    benchmark: Benchmark
    respondents: list[Respondent]
    data: Step | None


def evaluation_steps(recipe: Recipe, model: Step | None, tracks: dict[str, Trained]) -> list[Step]:
    """All answers first, then judgments, then scores: the plan then starts each server once."""
    rounds = list(_rounds(recipe, model, tracks))
    answers = {each.name: {who.name: _generate(each, who, recipe) for who in each.respondents} for each in rounds}
    judged = {each.name: _judgments(each, answers[each.name], recipe) for each in rounds}
    scored = [step for each in rounds for step in _scores(each, answers[each.name], judged[each.name], recipe)]
    every = [step for group in (*answers.values(), *judged.values()) for step in group.values()]
    return [*every, *scored]


def respondents(recipe: Recipe, model: Step | None, tracks: dict[str, Trained]) -> dict[str, Respondent]:
    """Everyone by name, each asked through its own template."""
    adapters = {name: made.result for name, made in tracks.items()} if recipe.serve.adapters == "lora" else {}
    found: dict[str, Respondent] = {}
    if model is not None:
        found[BASE] = Respondent(BASE, recipe.serve, model, adapters=adapters)
    for name, made in tracks.items():
        adapter = made.result if adapters else None
        weights = model if adapters else made.result
        found[name] = Respondent(name, recipe.serve, weights, adapter, adapters, made.tokens)
    return {**found, **{name: _as_it_is(name, other, recipe) for name, other in recipe.models.items()}}


def _rounds(recipe: Recipe, model: Step | None, tracks: dict[str, Trained]) -> Iterator[Round]:
    everyone = respondents(recipe, model, tracks)
    asking = [everyone[name] for name in recipe.model_names()]
    for track_name, track in recipe.tracks.items():
        yield from _track_rounds(track_name, track, recipe, tracks[track_name], asking)
    for name, benchmark in recipe.benchmarks.items():
        yield Round(name, asked(benchmark, recipe), asking, None)


def _track_rounds(
    track_name: str, track: Track, recipe: Recipe, made: Trained, everyone: list[Respondent]
) -> Iterator[Round]:
    """A track's benchmarks are for its own model and for those that no track trained."""
    asking = [
        _through(who, made.tokens) if who.name == BASE else who
        for who in everyone
        if who.name == track_name or who.name not in recipe.tracks
    ]
    for name, benchmark in track.benchmarks.items():
        yield Round(name, asked(benchmark, recipe), asking, made.data if benchmark.data == "track" else None)


def _through(who: Respondent, tokens: Step) -> Respondent:
    return Respondent(who.name, who.serve, who.model, who.adapter, who.adapters, tokens)


def _as_it_is(name: str, model: EvaluatedModel, recipe: Recipe) -> Respondent:
    serve = model.serve or recipe.serve
    if model.endpoint:
        return Respondent(name, serve, endpoint=model.endpoint)
    prepared = _prepare(name, model.prepare(), recipe)
    return Respondent(name, serve, prepared, template=model.template)


def _prepare(name: str, config: PrepareModel, recipe: Recipe) -> Step:
    return Step("prepare_model", config, name=f"{name}/prepare_model", resources=recipe.resources)


def _generate(asked_round: Round, who: Respondent, recipe: Recipe) -> Step:
    config = Generate(
        benchmark=asked_round.benchmark.ask,
        serve=who.serve.numerics(),
        template=who.template,
        endpoint=who.endpoint,
    )
    return Step(
        "generate",
        config,
        {"model": who.model, "adapter": who.adapter, "template": who.tokens, "data": asked_round.data},
        name=f"{who.name}/{asked_round.name}/generate",
        service=who.service(recipe.resources),
        resources=recipe.resources,
    )


def _judgments(asked_round: Round, answers: dict[str, Step], recipe: Recipe) -> dict[str, Step]:
    """By who is judged. Against an opponent, the opponent itself is not."""
    judge = asked_round.benchmark.judge
    if judge is None:
        return {}
    opponent = _opponent(asked_round, judge, recipe)
    others = answers[opponent] if opponent else None
    return {
        who.name: _judge(asked_round.name, judge, who, answers[who.name], others, recipe)
        for who in asked_round.respondents
        if who.name != opponent
    }


def _opponent(asked_round: Round, judge: JudgedBy, recipe: Recipe) -> str | None:
    return (judge.opponent or recipe.chosen_baseline()) if judge.mode == "pairwise" else None


def _judge(
    benchmark: str, judge: JudgedBy, judged: Respondent, answers: Step, opponent: Step | None, recipe: Recipe
) -> Step:
    by = _the_judge(benchmark, judge, judged, recipe)
    return Step(
        "judge",
        judge.settings(by.serve),
        {"answers": answers, "opponent": opponent, "model": by.model, "adapter": by.adapter},
        name=f"{judged.name}/{benchmark}/judge",
        service=by.service(recipe.resources),
        resources=recipe.resources,
    )


def _the_judge(benchmark: str, judge: JudgedBy, judged: Respondent, recipe: Recipe) -> Respondent:
    """A model of its own, an endpoint, or else the judged one itself."""
    if isinstance(judge.model, OtherModel):
        model = _prepare(f"judge/{benchmark}", judge.model.prepare(), recipe)
        return Respondent("judge", judge.model.serve or recipe.serve, model)
    return Respondent("judge", recipe.serve, endpoint=judge.endpoint) if judge.endpoint else judged


def _scores(asked_round: Round, answers: dict[str, Step], judged: dict[str, Step], recipe: Recipe) -> Iterator[Step]:
    """Of everyone, but for the opponent of a comparison, who has none."""
    benchmark = asked_round.benchmark
    config = Score(scorer=benchmark.score or benchmark_module(benchmark.ask).Scorer(name=benchmark.ask.name))
    for who in asked_round.respondents:
        if benchmark.judge is None or who.name in judged:
            inputs = {"answers": answers[who.name], "judgments": judged.get(who.name), "data": asked_round.data}
            name = f"{who.name}/{asked_round.name}/score"
            yield Step("score", config, inputs, name=name, resources=recipe.resources)
