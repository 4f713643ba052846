"""Any task, group or tag of lm-eval, by name: its prompts, its filters, its metrics, computed by its own evaluator.

Generating and scoring both run `lm_eval.evaluator.evaluate`, over a model that notes down what it is asked, and over a
model that returns the stored answers and log-likelihoods. Tasks shipped here lie in tasks/.
https://github.com/EleutherAI/lm-evaluation-harness
"""

import json
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from pipeline.downloads import Download
from pipeline.strict import LocalPath, StrictModel
from stages._serving.requests import Request
from stages.benchmarks import _lm_eval_index as index
from stages.benchmarks.base import Answered, Item, Scores, answer_counts

OTHER_NAMES = {"EleutherAI/hendrycks_math": "math"}
"""What data sets are called in mirror folders, beside their own names."""
PROBLEM_FIELDS = ("task", "data")
SCORING_READS_PROBLEMS = True


class Generation(StrictModel):
    """Replaces the task's own generation arguments, each on its own."""

    temperature: Annotated[float, Field(ge=0)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    stop: tuple[str, ...] | None = Field(None, strict=False)
    """Texts that end the answer and are not part of it."""


class Config(StrictModel):
    """A registered task, or a group or tag of them."""

    VERSION: ClassVar[int] = 2  # requests are named by task, document and number

    name: Literal["lm_eval"]
    task: str
    """As `lm-eval ls tasks` lists it, or arithmetic_word_problems."""
    num_fewshot: Annotated[int, Field(ge=0)] | None = None
    """By default the task's own number. Tasks that fix it at 0 keep it, as in lm-eval."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Only the first so many problems of each task."""
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """Of an answer; by default the task's max_gen_toks, else lm-eval's 256."""
    generation: Generation = Generation()
    use_template: bool = True
    """Render prompts with the model's template; else lm-eval's plain text is continued as it stands, which is how
    leaderboards ask for log-likelihoods."""
    data: dict[str, LocalPath] = {}
    """Folders that replace data sets of the hub, by the hub's names: {openai/gsm8k: FOLDER} with FOLDER/test.jsonl."""
    seed: int = 1234
    """Draws the worked examples of few-shot prompts; lm-eval's default."""


class Scorer(StrictModel):
    """Options of scoring."""

    name: Literal["lm_eval"]
    primary: str | None = None
    """The headline metric as lm-eval names it, such as "exact_match,strict-match"; by default the task's first. For a
    group without a metric of its own, the mean of its tasks' metrics of that name."""
    bootstrap_iters: Annotated[int, Field(ge=0)] = 1000
    """For standard errors that have no closed form."""


def on_mirror(config: Config, mirror: Path) -> Config:
    """The config with those of its data sets that a mirror folder has, and the recipe does not name."""
    wanted = sorted({each.name for each in index.data_sets(config.task)})
    found = {name: folder for name in wanted if (folder := _mirrored(name, mirror))}
    return config.model_copy(update={"data": {**found, **config.data}}) if found else config


def problems(config: Config) -> list[str]:
    """Whether the task's data sets are here, in the hub's cache, or can be fetched; tasks in Python are not asked."""
    from stages._data import hub
    from stages._hub import is_offline
    from stages.benchmarks._lm_eval_nltk import nltk_problems

    lines = [
        f"data.{name}: found nothing at {path}, expected a folder"
        for name, path in config.data.items()
        if not path.exists()
    ]
    instead = "name a local copy in `data`, or bring the problems as a test split (`data: track`)"
    lines += [line for each in _on_hub(config) if (line := hub.problem(each.name, each.revision, instead))]
    lines += nltk_problems(index.nltk_packages(config.task)) if is_offline() else []
    return [f"lm_eval: {config.task}: {line}" for line in lines]


def downloads(config: Config) -> list[Download]:
    """The task's data sets; the hub's tasks name no commit, so that the one which is fetched counts."""
    from stages._data import hub

    return [hub.files(each.name, each.revision) for each in _on_hub(config)]


def requests(config: Config, data_dir: Path | None, cache_dir: Path) -> list[Request]:
    """One request for each answer or log-likelihood that lm-eval wants.

    Raises UserError for an unknown task (near names are listed), one that cannot be run safely, or missing data.
    """
    from stages.benchmarks._lm_eval import collect_requests

    return collect_requests(config, data_dir, cache_dir)


def questions(config: Config, data_dir: Path | None, cache_dir: Path) -> list[tuple[str, str]]:
    """What each document of the task asks."""
    from stages.benchmarks._lm_eval import collect_questions

    return collect_questions(config, data_dir, cache_dir)


def score(scorer: Scorer, config: Config, answered: Answered, cache_dir: Path) -> tuple[Scores, list[Item]]:
    """lm-eval's metrics of the stored answers, with its versions and hashes; its own files are kept in lm_eval/."""
    from stages.benchmarks._lm_eval import evaluate_stored
    from stages.benchmarks._lm_eval_items import task_items
    from stages.benchmarks._lm_eval_table import Table

    results = evaluate_stored(config, scorer.bootstrap_iters, answered, cache_dir)
    samples = results.pop("samples")
    if answered.files_dir:
        _keep(answered.files_dir / "lm_eval", results, samples)
    table = Table(config.task, results)
    items = {
        task: task_items(task, rows, table.of_items(task, scorer.primary), answered) for task, rows in samples.items()
    }
    metrics, primary = table.metrics(scorer.primary, items)
    return (
        Scores(
            benchmark=config.task,
            primary=primary,
            higher_is_better=table.higher_is_better(primary),
            metrics=metrics,
            counts={**answer_counts(answered.answers.values()), "unparsable": _num_unparsable(items)},
            details=_details(config.task, results, samples),
        ),
        [item for rows in items.values() for item in rows],
    )


def _on_hub(config: Config) -> list[index.DataSet]:
    return sorted(each for each in index.data_sets(config.task) if each.name not in config.data)


def _mirrored(name: str, mirror: Path) -> Path | None:
    places = [mirror / each for each in (name, name.rpartition("/")[2], OTHER_NAMES.get(name, name))]
    return next((place for place in places if place.is_dir()), None)


def _num_unparsable(items: dict[str, list[Item]]) -> int:
    return sum(item["extracted"] == "[invalid]" for rows in items.values() for item in rows)


def _details(name: str, results: dict[str, Any], samples: dict[str, Any]) -> dict[str, Any]:
    from importlib.metadata import version

    return {
        "lm_eval_version": version("lm_eval"),
        "task": name,
        "tasks": {
            task: {
                "version": results["versions"].get(task),
                "hash": _task_hash(rows),
                "num_fewshot": results["n-shot"].get(task),
                "n": results["n-samples"][task]["effective"],
                "n_original": results["n-samples"][task]["original"],
            }
            for task, rows in samples.items()
        },
    }


def _task_hash(samples: list[dict[str, Any]]) -> str:
    """As lm-eval's result files have it: over the documents, prompts and targets of the samples in order."""
    from lm_eval.utils import hash_string

    return str(hash_string("".join(s["doc_hash"] + s["prompt_hash"] + s["target_hash"] for s in samples)))


def _keep(folder: Path, results: dict[str, Any], samples: dict[str, list[dict[str, Any]]]) -> None:
    """results.json and samples_TASK.jsonl, with the fields of lm-eval's own files."""
    from lm_eval.utils import handle_non_serializable

    from stages._serving.records import write_json_lines

    folder.mkdir(exist_ok=True)
    text = json.dumps(results, indent=2, default=handle_non_serializable, ensure_ascii=False)
    (folder / "results.json").write_text(text + "\n", encoding="utf-8")
    for task, rows in samples.items():
        plain = json.loads(json.dumps(rows, default=handle_non_serializable))
        write_json_lines(folder / f"samples_{task}.jsonl", plain)
