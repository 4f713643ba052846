"""Plain statements of what the numbers can and cannot show, derived from the steps and scores themselves."""

from collections.abc import Iterator, Mapping, Sequence

from stages._report import format as show
from stages._report.read import Step
from stages._report.results import Evaluation, Item, Results

SMALL_MODEL = 1_000_000_000
"""Parameters below which results are not taken as evidence about the models people deploy."""
FEW_ITEMS = 50
"""Items below which only very large differences show."""
MANY = 0.1
"""Share of answers from which a score says as much about what went wrong with them as about the model."""
WHAT_WENT_WRONG = {
    "truncated": "answers cut off at the length limit ({items}); a longer limit may change the score",
    "prompt_too_long": "prompts too long to be asked ({items}); a longer context may change the score",
    "prompt_cut": "prompts cut at their beginning to fit the context ({items}); a longer context may change the score",
    "refused": "answers refused by the endpoint ({items}); they count as wrong",
    "unparsable": "answers unreadable ({items}); the score is as much about their form as about what they say",
}


def write_notes(steps: Mapping[str, Step], results: Results) -> list[str]:
    """One sentence each, the most general first."""
    return [*_model_notes(steps, results.models), *_data_notes(steps), *_merge_notes(steps), *_benchmark_notes(results)]


def _model_notes(steps: Mapping[str, Step], models: Sequence[str]) -> Iterator[str]:
    """Of the base model and of those evaluated as they are; a judge is neither."""
    for name in ("prepare_model", *(f"{model}/prepare_model" for model in models)):
        num_parameters = steps[name].metrics.get("num_parameters") if name in steps else None
        if isinstance(num_parameters, int) and num_parameters < SMALL_MODEL:
            owner = name.rpartition("/")[0]
            yield (
                f"{owner or 'The base model'} has {show.count(num_parameters)} parameters. Results at this size show "
                "that the method and the pipeline work; they do not say how large models would do."
            )


def _data_notes(steps: Mapping[str, Step]) -> Iterator[str]:
    """What is known about evaluation items in the training data of each track."""
    for track in (name.rpartition("/")[0] for name, step in steps.items() if step.stage == "tokenize"):
        step = steps.get(f"{track}/decontaminate")
        if step is None:
            yield f"{track}: the training data was not searched for evaluation items; `decontaminate` does that."
            continue
        train, too_short = step.metrics["train"], sum(step.metrics["num_too_short"].values())
        of = ", ".join(f"{name} {show.grouped(number)}" for name, number in train["removed"].items())
        yield (
            f"{track}: {show.grouped(train['num_removed'])} of {show.grouped(train['num_rows'])} training rows were "
            f"taken out because they repeat evaluation items{f' ({of})' if of else ''}; reworded ones are not found"
            + (f", and {show.items(too_short)} of too few words were not looked for." if too_short else ".")
        )


def _merge_notes(steps: Mapping[str, Step]) -> Iterator[str]:
    for name, step in steps.items():
        if step.stage == "merge" and step.metrics.get("verified") == "tensors":
            yield (
                f"{name}: every tensor of the merged model was checked, but what it says was compared neither with the "
                "trained model nor with the served one (`verify: tensors`)."
            )


def _benchmark_notes(results: Results) -> Iterator[str]:
    for benchmark in results.benchmarks:
        evaluations = list(results.of(benchmark).values())
        meaningful = all(each.meaningful for each in evaluations)
        for note in dict.fromkeys(each.note for each in evaluations):
            if note or not meaningful:
                yield f"{benchmark}{'' if meaningful else ' (not meaningful)'}: {note}".removesuffix(": ")
        num_items = min(len(each.items) for each in evaluations)
        if meaningful and num_items < FEW_ITEMS:
            yield f"{benchmark}: {show.items(num_items)} only; the intervals say how little that settles."
        for missing in dict.fromkeys(tuple(each.details.get("not_enforced") or ()) for each in evaluations):
            if missing:
                yield f"{benchmark}: the machine that ran the programs could not enforce {', '.join(missing)}."
        for each in evaluations:
            yield from _answer_notes(each)
            if each.primary not in {score.metric for score in each.scores}:
                yield f"{benchmark}, {each.model}: no {each.primary}, since no item could be scored."


def _answer_notes(each: Evaluation) -> Iterator[str]:
    num_answers = sum(_num_answers(item) for item in each.items)
    for kind, what in WHAT_WENT_WRONG.items():
        number = each.counts.get(kind, 0)
        of_a_judge = kind == "unparsable" and "unrated_turns" in each.counts
        if number and number >= MANY * num_answers and not of_a_judge:
            text = what.format(items=show.items(len(each.items)))
            yield f"{each.benchmark}, {each.model}: {show.grouped(number)} of its {text}."


def _num_answers(item: Item) -> int:
    """Samples, or turns."""
    answer = item.get("answer")
    return len(answer) if isinstance(answer, list) else 1
