"""The work of the `tokenize` stage: rows -> examples -> token ids -> files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.artifact import Artifact
from pipeline.errors import UserError
from pipeline.stage import Workspace
from stages._data import files, formats, template
from stages._data.binding import bind
from stages._data.encoding import Encoder, Placed, cut
from stages._data.formats import Example
from stages._data.token_file import Sample, TokenWriter
from stages._data.tokenizer import load
from stages._data.turns import Turn, TurnProblem, document, turns

if TYPE_CHECKING:
    from stages.tokenize import Config, Inputs

SPLITS = ("train", "validation")
NUM_EXAMPLES = 3
HASH_BYTES = 16
ToTurns = Callable[[Example], list[Turn]]


def problems(config: Config, data: Artifact | None) -> list[str]:
    """What is wrong, as far as it can be seen without the tokenizer."""
    try:
        if config.template.kind == "jinja":
            template.compiled(config.template.text)
        if data:
            file = data / "train.jsonl"
            formats.check_columns(config.format, next(files.read_rows(file), {}), file.name)
    except UserError as error:
        return list(error.problems)
    return []


def tokenize(config: Config, inputs: Inputs, out: Workspace) -> dict[str, Any]:
    """Write every artifact file; the length report of train, and that of each split under "splits"."""
    tokenizer = load(inputs.model.path)
    bound = bind(config.template, tokenizer)
    add_bos = tokenizer.adds_bos if config.format.kind == "text" else bound.add_bos
    encoder = Encoder(bound, tokenizer.encoder, learn_context=config.learn == "all", add_bos=add_bos)
    seen: set[bytes] | None = set() if config.drop_duplicates else None
    splits: dict[str, dict[str, Any]] = {}
    if config.format.kind == "text":
        to_turns = partial(document, eos_token=bound.eos_token)
    else:
        to_turns = partial(turns, bound, learn=config.learn, adds_space=tokenizer.adds_space())
    for split in SPLITS:
        file = inputs.data / f"{split}.jsonl"
        if file.exists():
            splits[split] = _Split(config, to_turns, encoder, seen, file).tokenize(out, split)
            tokenizer.refuse_beyond_vocabulary(splits[split]["largest_token_id"])
    bound.save(out.path)
    return {**splits["train"], "splits": splits, "template_fingerprint": bound.fingerprint}


class _Split:
    """One split on its way into a token file, and what is counted on that way."""

    def __init__(
        self, config: Config, to_turns: ToTurns, encoder: Encoder, seen: set[bytes] | None, file: Path
    ) -> None:
        self.config = config
        self.to_turns = to_turns
        self.encoder = encoder
        self.seen = seen
        """Hashes of what came before, of this split and of those before it; None where duplicates may stay."""
        self.file = file
        self.counts = dict.fromkeys(
            ("num_rows", "num_empty", "num_duplicates", "num_truncated", "num_dropped", "num_tokens_cut"), 0
        )

    def tokenize(self, out: Workspace, split: str) -> dict[str, Any]:
        """Write `<split>.safetensors`, and examples.txt for train; the report."""
        tokens, shown = TokenWriter(out / f"{split}.safetensors"), list[str]()
        for rows in self._chunks():
            for sample in self._samples(rows):
                tokens.append(sample)
                if len(shown) < NUM_EXAMPLES:
                    shown.append(self.encoder.marked(sample))
            out.progress(self.counts["num_rows"], split=split)
        if not len(tokens):
            raise UserError(
                f"{self.file.name}: no sample is left of {self.counts['num_rows']} rows ({self._losses()}); "
                f"raise max_length ({self.config.max_length})"
            )
        tokens.close()
        if split == "train":
            _write_examples(shown, out / "examples.txt")
        return {**self.counts, **tokens.report()}

    def _chunks(self) -> Iterator[list[Placed]]:
        """The rows that are not left out."""
        drop_empty = self.config.on_empty == "drop"
        name = self.file.name
        for chunk in formats.chunks(self.config.format, files.read_rows(self.file), name, drop_empty):
            self.counts["num_rows"] += chunk.num_rows
            self.counts["num_empty"] += chunk.num_rows - len(chunk.examples)
            rows = [Placed(f"{name}: row {number}", self._turns(number, each)) for number, each in chunk.examples]
            yield [row for row in rows if not self._is_duplicate(row.turns)]

    def _turns(self, number: int, example: Example) -> list[Turn]:
        try:
            return self.to_turns(example)
        except TurnProblem as problem:
            raise UserError(f"{self.file.name}: row {number}: {problem}") from None

    def _is_duplicate(self, row: list[Turn]) -> bool:
        """Whether the very same text came before; only its hash is kept."""
        if self.seen is None:
            return False
        text = "\0".join(text for turn in row for text in turn)
        digest = blake2b(text.encode(errors="surrogatepass"), digest_size=HASH_BYTES).digest()
        known = digest in self.seen
        self.seen.add(digest)
        self.counts["num_duplicates"] += known
        return known

    def _samples(self, rows: list[Placed]) -> Iterator[Sample]:
        for whole in self.encoder.encode(rows):
            sample = cut(whole, self.config.max_length)
            kept = len(sample.input_ids) if sample else 0
            self.counts["num_tokens_cut"] += len(whole.input_ids) - kept
            if sample is None:
                self.counts["num_dropped"] += 1
                continue
            self.counts["num_truncated"] += kept < len(whole.input_ids)
            yield sample

    def _losses(self) -> str:
        names = ("num_empty", "num_duplicates", "num_dropped")
        return ", ".join(f"{self.counts[name]} {name.removeprefix('num_')}" for name in names)


def _write_examples(shown: list[str], path: Path) -> None:
    """A few samples as the model sees them."""
    head = "what is learnt stands between ⟦ and ⟧"
    path.write_text("\n\n--------\n\n".join([head, *shown]) + "\n", encoding="utf-8")
