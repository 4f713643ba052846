"""The work of the `tokenize` stage: rows -> examples -> token ids -> files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.artifact import Artifact
from pipeline.errors import UserError
from pipeline.stage import Workspace
from stages._data import files, formats, template
from stages._data.binding import bind
from stages._data.encoding import Encoder, Samples
from stages._data.formats import Example
from stages._data.tokenizer import load

if TYPE_CHECKING:
    from stages.tokenize import Config, Inputs

SPLITS = ("train", "validation")
NUM_EXAMPLES = 3


def problems(config: Config, data: Artifact | None) -> list[str]:
    """What is wrong, as far as it can be seen without the tokenizer."""
    try:
        if config.template.kind == "jinja":
            template.compiled(config.template.text)
        if data:
            _check_columns(config, data / "train.jsonl")
    except UserError as error:
        return list(error.problems)
    return []


def tokenize(config: Config, inputs: Inputs, out: Workspace) -> dict[str, Any]:
    """Write every artifact file; the length report of train, and that of each split under "splits"."""
    tokenizer = load(inputs.model.path)
    bound = bind(config.template, tokenizer)
    encoder = Encoder(bound, tokenizer.encoder, config.max_length)
    splits: dict[str, dict[str, Any]] = {}
    for split in SPLITS:
        file = inputs.data / f"{split}.jsonl"
        if file.exists():
            splits[split] = _tokenize_split(config, encoder, file, out, split)
    bound.save(out.path)
    return {**splits["train"], "splits": splits, "template_fingerprint": bound.fingerprint}


def _tokenize_split(config: Config, encoder: Encoder, file: Path, out: Workspace, split: str) -> dict[str, Any]:
    samples, num_empty, num_rows = Samples(), 0, 0
    drop_empty = config.on_empty == "drop"
    for chunk in formats.chunks(config.format, files.read_rows(file), file.name, drop_empty):
        examples = [example for _, example in chunk.examples]
        encoder.add(examples, samples)
        if split == "train" and num_rows == 0:
            _write_examples(encoder, examples[:NUM_EXAMPLES], out / "examples.txt")
        num_rows += chunk.num_rows
        num_empty += chunk.num_rows - len(examples)
        out.progress(num_rows, split=split)
    if not len(samples):
        raise UserError(f"{file.name}: no sample is left of {num_rows} rows; raise max_length ({config.max_length})")
    samples.save(out / f"{split}.safetensors")
    return {"num_rows": num_rows, "num_empty": num_empty, **samples.report()}


def _check_columns(config: Config, file: Path) -> None:
    formats.check_columns(config.format, next(files.read_rows(file), {}), file.name)


def _write_examples(encoder: Encoder, examples: list[Example], path: Path) -> None:
    """A few samples as the model sees them; what it learns stands between ⟦ and ⟧."""
    bound = encoder.template
    shown = [
        f"{bound.bos_token if bound.add_bos else ''}{bound.render_prompt(example.messages)}"
        f"⟦{bound.render_answer(example.response)}⟧"
        for example in examples
    ]
    path.write_text("\n\n--------\n\n".join(shown) + "\n", encoding="utf-8")
