"""How questions with one right answer are asked, and the form of their scores."""

import re
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from string import Formatter
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from pipeline.strict import StrictModel
from stages._serving.requests import Request, Sampling
from stages.benchmarks.base import Answered, Item, Metric, mean_metric


def _check_prompt(prompt: str) -> str:
    fields = prompt_fields(prompt)
    wrong = [name for name in fields if not name.isidentifier()]
    if wrong:
        raise ValueError(f"found {{{wrong[0]}}}, expected the name of a field, such as {{question}}")
    return prompt


def prompt_fields(prompt: str) -> list[str]:
    """The names in braces. Raises ValueError for unbalanced braces and for more than a name in them."""
    try:
        parts = list(Formatter().parse(prompt))
    except ValueError as error:
        raise ValueError(f"{error}; write {{{{ and }}}} for braces that are meant as such") from None
    for _, name, form, conversion in parts:
        if form or conversion:
            raise ValueError(f"found {{{name}}} with a format, expected the name of a field alone")
    return [name for _, name, _, _ in parts if name is not None]


def fill(prompt: str, values: Mapping[str, str]) -> str:
    """The prompt with its names replaced; braces in the values are left alone."""
    return "".join(text + ("" if name is None else values[name]) for text, name, _, _ in Formatter().parse(prompt))


class Asked(StrictModel):
    """How questions are asked."""

    prompt: Annotated[str, Field(min_length=1), AfterValidator(_check_prompt)] = "{question}"
    """The message to the model. {{ and }} are braces."""
    use_template: bool = True
    """Ask through the model's template; else the prompt is plain text to be continued as it stands."""
    reply_start: str = ""
    """What the answer is made to begin with; part of the prompt and none of what is scored."""
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Texts that end an answer, beside those of the template."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Only the first so many questions."""
    num_samples: Annotated[int, Field(ge=1)] = 1
    """Answers to each question; its score is their mean."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    max_tokens: Annotated[int, Field(ge=1)] = 512
    seed: int = 0

    def request(self, name: str, values: Mapping[str, str], doc: dict[str, Any]) -> Request:
        """`values`: what replaces the names in the prompt, `question` among them."""
        return Request(
            id=name,
            turns=(fill(self.prompt, values),),
            raw=not self.use_template,
            answer_start=self.reply_start,
            sampling=Sampling(
                max_tokens=self.max_tokens,
                temperature=self.temperature,
                top_p=self.top_p,
                stop=self.stop,
                seed=self.seed,
            ),
            num_samples=self.num_samples,
            doc={"question": values["question"], **doc},
        )


def slug(text: str) -> str:
    """A group's name as part of a metric's: small letters, digits and underscores."""
    return re.sub(r"\W+", "_", text.lower()).strip("_")


def item(
    answered: Answered,
    request: Request,
    extracted: Sequence[str | None],
    verdicts: Mapping[str, Sequence[bool]],
    groups: Iterable[str] = (),
) -> Item:
    """One question's item. `verdicts`: metric -> right or not, by sample; the first metric is the headline.

    `groups`: what the question belongs to; each metric counts for each of them as well.
    """
    shares = {metric: fmean(values) for metric, values in verdicts.items()}
    of_groups = {f"{metric}_{group}": share for group in groups for metric, share in shares.items()}
    return {
        "id": request.id,
        "score": next(iter(shares.values())),
        **shares,
        **of_groups,
        "question": request.doc["question"],
        "answer": _one_or_all(answered.texts(request)),
        "reference": _one_or_all(request.doc["references"]),
        "extracted": _one_or_all(extracted),
        "finish_reason": answered.answers[request.id, 0, 0].finish_reason,
    }


def metrics(
    items: Sequence[Item], names: Iterable[str], num_samples: int, groups: Iterable[str] = ()
) -> dict[str, Metric]:
    """The mean of each metric over all questions, then over those of each group.

    With several samples, an item's score is their mean, which is no 0 or 1: its interval is another.
    """
    names = list(names)
    of_groups = [f"{name}_{group}" for name in names for group in groups]
    scores = {name: [each[name] for each in items if name in each] for name in [*names, *of_groups]}
    if num_samples == 1:
        return {name: mean_metric(values) for name, values in scores.items()}
    return {name: mean_metric([(value,) for value in values]) for name, values in scores.items()}


def _one_or_all(values: Sequence[Any]) -> Any:
    return values[0] if len(values) == 1 else list(values)
