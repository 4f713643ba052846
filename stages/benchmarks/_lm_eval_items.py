"""One item a document from lm-eval's samples, of which it logs one for each of a task's filters."""

from collections.abc import Iterable
from typing import Any

from stages._serving.requests import PROMPT_CUT, Answer, Request
from stages.benchmarks.base import Answered, Item

Sample = dict[str, Any]


def task_items(task: str, samples: Iterable[Sample], primary: str, answered: Answered) -> list[Item]:
    """With the metrics of all filters, such as "exact_match,strict-match", and "score", the `primary` one."""
    asked: dict[str, list[Request]] = {}
    for request in answered.requests:
        asked.setdefault(request.id.rpartition("/")[0], []).append(request)
    items: dict[str, Item] = {}
    for sample in samples:
        name = f"{task}/{sample['doc_id']}"
        item = items.setdefault(name, _blank(name, sample, asked[name], answered))
        for metric in sample["metrics"]:
            key = f"{metric},{sample['filter']}"
            item[key] = _number(sample[metric])
            if key == primary:
                item["score"] = item[key]
                item["extracted"] = None if "choices" in item else _first(sample["filtered_resps"])
    return list(items.values())


def question(task: Any, doc: dict[str, Any]) -> str:
    """The longest field that the document's prompt shows, so without the words that surround every question.

    Where it shows none as it is, everything the document says. A task's own `doc_to_decontamination_query` is not
    asked: most have none, and lm-eval fails on those that are templates.
    """
    prompt, fields = task.doc_to_text(doc), [value for value in doc.values() if isinstance(value, str)]
    shown = [value for value in fields if value.strip() and value.strip() in str(prompt)]
    return max(shown, key=len, default="\n".join(fields))


def _blank(name: str, sample: Sample, requests: list[Request], answered: Answered) -> Item:
    hashes = {key: sample[key] for key in ("doc_hash", "prompt_hash", "target_hash")}
    first = answered.answers[requests[0].id, 0, 0]
    item: Item = {
        "id": name,
        "score": None,
        "question": requests[0].turns[-1],
        "reference": str(sample["target"]),
        "extracted": None,
        "finish_reason": first.finish_reason,
    }
    if requests[0].continuation is None:
        texts = answered.texts(requests[0])
        return {**item, "answer": texts if len(texts) > 1 else texts[0], **hashes}
    return {**item, **_likelihoods(sample, requests, answered), **hashes}


def _likelihoods(sample: Sample, requests: list[Request], answered: Answered) -> Item:
    """The texts whose log-likelihoods were asked for; the likeliest stands for the answer."""
    answers = [answered.answers[request.id, 0, 0] for request in requests]
    choices = [_choice(request, answer) for request, answer in zip(requests, answers, strict=True)]
    likeliest = max(choices, key=lambda choice: choice["loglikelihood"] or float("-inf"))
    target = sample["target"]
    named = isinstance(target, int) and not isinstance(target, bool) and 0 <= target < len(choices)
    return {
        "answer": likeliest["text"] if len(choices) > 1 else f"log-likelihood {likeliest['loglikelihood']}",
        **({"reference": choices[target]["text"]} if named and len(choices) > 1 else {}),
        "finish_reason": PROMPT_CUT if any(each.finish_reason == PROMPT_CUT for each in answers) else "scored",
        "choices": choices,
    }


def _choice(request: Request, answer: Answer) -> dict[str, Any]:
    return {"text": request.continuation, "loglikelihood": answer.loglikelihood, "is_greedy": answer.is_greedy}


def _number(value: Any) -> float | None:
    """A sample's metric where it is a number; corpus metrics such as BLEU keep texts there."""
    return float(value) if isinstance(value, int | float) else None


def _first(values: Any) -> Any:
    return values[0] if isinstance(values, list) and values else values
