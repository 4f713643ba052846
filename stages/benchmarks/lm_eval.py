"""Any generate_until task of lm-eval, by name: its prompts, its filters, its metrics, computed by its own evaluator.

Generating and scoring both run `lm_eval.evaluator.evaluate`, over a model that notes down what it is asked, and over a
model that returns the stored answers. Tasks shipped here lie in tasks/.
"""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from pipeline.strict import StrictModel
from stages._serving.requests import Request
from stages.benchmarks.base import Answered, Item, Scores, answer_counts, metric_of


class Config(StrictModel):
    """A registered task. With a `data` artifact, its jsonl files replace the task's own data source."""

    name: Literal["lm_eval"]
    task: str
    """As `lm-eval ls tasks` lists it, or arithmetic_word_problems."""
    num_fewshot: Annotated[int, Field(ge=0)] | None = None
    """By default the task's own number."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Only the first so many problems."""
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """Of an answer; by default the task's max_gen_toks, else lm-eval's 256."""
    use_template: bool = True
    """Render prompts with the model's template; else lm-eval's plain text is continued as it stands."""
    seed: int = 1234
    """Draws the worked examples of few-shot prompts; lm-eval's default."""


class Scorer(StrictModel):
    """Options of scoring."""

    name: Literal["lm_eval"]
    primary: str | None = None
    """The headline metric as lm-eval names it, such as "exact_match,strict-match"; by default the task's first."""
    bootstrap_iters: Annotated[int, Field(ge=0)] = 1000
    """For standard errors that have no closed form."""


def problems(config: Config) -> list[str]:
    """Whether the task's own data is cached or the hub can be reached, for tasks in a file of their own name.

    lm-eval is not asked, since reading its thousands of files takes seconds.
    """
    from stages._data import hub

    name = _hub_dataset(config.task)
    problem = hub.unpinned_problem(name) if name else None
    return (
        [f"lm_eval: {config.task}: {problem}; set `data: track` and bring the problems as a test split"]
        if problem
        else []
    )


def _hub_dataset(task: str) -> str | None:
    """The `dataset_path` in the task's YAML file or the one it includes; None where it is not found that easily."""
    package = find_spec("lm_eval")
    folders = package.submodule_search_locations if package else None
    for file in Path(folders[0], "tasks").glob(f"*/{task}.yaml") if folders else []:
        text = file.read_text()
        included = re.search(r"^include: *(\S+)", text, re.MULTILINE)
        if included and (file.parent / included[1]).is_file():
            text += (file.parent / included[1]).read_text()
        found = re.search(r"^dataset_path: *([\w.-]+/[\w.-]+)", text, re.MULTILINE)
        return found[1] if found else None
    return None


def requests(config: Config, data_dir: Path | None, cache_dir: Path) -> list[Request]:
    """One request a problem (and worked examples as earlier messages).

    Raises UserError for an unknown task (near names are listed), one that is not generate_until, or missing data.
    """
    from stages.benchmarks._lm_eval import collect_requests

    return collect_requests(config, data_dir, cache_dir)


def score(scorer: Scorer, config: Config, answered: Answered, cache_dir: Path) -> tuple[Scores, list[Item]]:
    """lm-eval's metrics of the stored answers, with its versions and hashes."""
    from stages.benchmarks._lm_eval import evaluate_stored

    result = evaluate_stored(config, scorer.bootstrap_iters, answered, cache_dir)
    values = result.metrics
    primary = _primary(scorer, list(values))
    items = _items(result.samples, primary, answered)
    counts = {
        **answer_counts(answered.answers.values()),
        "unparsable": sum(item["extracted"] == "[invalid]" for item in items),
    }
    return (
        Scores(
            benchmark=config.task,
            primary=primary,
            higher_is_better=result.higher_is_better.get(primary.partition(",")[0]) is not False,
            metrics={
                name: metric_of(value, stderr, len(items), _values(items, name))
                for name, (value, stderr) in values.items()
            },
            counts=counts,
            details=result.details,
        ),
        items,
    )


def _primary(scorer: Scorer, metrics: list[str]) -> str:
    from pipeline.errors import UserError

    if scorer.primary is None:
        return metrics[0]
    if scorer.primary not in metrics:
        raise UserError(f"scorer.primary: got {scorer.primary!r}, expected one of {', '.join(metrics)}")
    return scorer.primary


def _items(samples: list[dict[str, Any]], primary: str, answered: Answered) -> list[Item]:
    """lm-eval logs a sample for each filter; here one item holds the metrics of all of them."""
    by_id = {request.id: request for request in answered.requests}
    items: dict[str, Item] = {}
    for sample in samples:
        request = by_id[str(sample["doc_id"])]
        item = items.setdefault(request.id, _blank_item(request, sample, answered))
        for metric in sample["metrics"]:
            name = f"{metric},{sample['filter']}"
            item[name] = _number(sample[metric])
            if name == primary:
                item["score"], item["extracted"] = item[name], _first(sample["filtered_resps"])
    return [items[request.id] for request in answered.requests]


def _blank_item(request: Request, sample: dict[str, Any], answered: Answered) -> Item:
    texts = answered.texts(request)
    return {
        "id": request.id,
        "score": None,
        "question": request.turns[-1],
        "answer": texts if len(texts) > 1 else texts[0],
        "reference": str(sample["target"]),
        "extracted": None,
        "finish_reason": answered.answers[request.id, 0, 0].finish_reason,
    }


def _values(items: list[Item], name: str) -> list[float]:
    return [item[name] for item in items if item.get(name) is not None]


def _number(value: Any) -> float | None:
    """A sample's metric where it is a number; corpus metrics such as BLEU keep texts there."""
    return float(value) if isinstance(value, int | float) else None


def _first(values: Any) -> Any:
    return values[0] if isinstance(values, list) and values else values
