"""The benchmarks of a recipe with their problems where this machine has them, and training data without those."""

from pipeline.step import Step
from stages._workflow.recipe import Benchmark, Recipe
from stages.benchmarks import on_mirror, only_problems
from stages.decontaminate import Compared
from stages.decontaminate import Config as Decontaminate
from stages.judge import on_mirror as judge_on_mirror


def asked(benchmark: Benchmark, recipe: Recipe) -> Benchmark:
    """With the mirror's files where it has them."""
    if recipe.mirror is None or benchmark.data == "track":
        return benchmark
    judge = benchmark.judge and judge_on_mirror(benchmark.judge, recipe.mirror)
    return benchmark.model_copy(update={"ask": on_mirror(benchmark.ask, recipe.mirror), "judge": judge})


def decontaminated(track_name: str, recipe: Recipe, data: Step) -> Step:
    """The track's data without what repeats an item of the benchmarks that its model answers; itself if not asked for.

    How a benchmark asks is no part of the step, so that another prompt or limit does not train anew.
    """
    track = recipe.tracks[track_name]
    if track.decontaminate is None:
        return data
    benchmarks = {
        name: Compared(benchmark=only_problems(asked(benchmark, recipe).ask), data=benchmark.data)
        for name, benchmark in {**recipe.benchmarks, **track.benchmarks}.items()
    }
    config = Decontaminate(overlap=track.decontaminate, benchmarks=benchmarks)
    name = f"{track_name}/decontaminate"
    return Step("decontaminate", config, {"data": data}, name=name, resources=recipe.resources)
