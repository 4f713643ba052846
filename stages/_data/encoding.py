"""Turns as token ids, checked by decoding them again."""

from collections.abc import Iterator
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from pipeline.errors import UserError
from stages._data.template import Template
from stages._data.token_file import Sample
from stages._data.turns import Turn

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class Placed(NamedTuple):
    """A row's turns and where it is, for messages."""

    where: str
    turns: list[Turn]


class Encoder:
    """Encodes each text that would be generated apart from what stands before it, as in generation, and joins the ids.

    What stands between two answers is encoded after the end of the first, since a tokenizer may treat the start of a
    text differently. `encode_batch_fast` uses all cores; so does a pool of processes, no faster and with more memory.
    """

    def __init__(self, template: Template, tokenizer: "Tokenizer", learn_context: bool, add_bos: bool) -> None:
        self.tokenizer = tokenizer
        self.learn_context = learn_context
        self.bos_ids = [template.bos_token_id] if add_bos and template.bos_token_id is not None else []
        self.stop_token_ids = template.stop_token_ids
        self.end = tokenizer.id_to_token(template.stop_token_ids[0]) or ""

    def encode(self, rows: list[Placed]) -> list[Sample]:
        """A sample for each row. Raises UserError if decoding what is learnt does not give the text back."""
        texts = [text for row in rows for text in self._texts(row.turns)]
        encoded = [encoding.ids for encoding in self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
        learnt = [index for index in range(len(texts)) if self.learn_context or index % 2]
        self._check_round_trip(rows, [texts[index] for index in learnt], [encoded[index] for index in learnt])
        parts = iter(encoded)
        return [self._joined(row, parts) for row in rows]

    def marked(self, sample: Sample) -> str:
        """Its text, with what is learnt between ⟦ and ⟧."""
        shown, pairs = [], zip(sample.loss_mask, sample.input_ids, strict=True)
        for is_learnt, tokens in groupby(pairs, key=lambda pair: pair[0]):
            text = self.tokenizer.decode([each for _, each in tokens], skip_special_tokens=False)
            shown.append(f"⟦{text}⟧" if is_learnt else text)
        return "".join(shown)

    def _texts(self, turns: list[Turn]) -> Iterator[str]:
        for number, turn in enumerate(turns):
            yield self.end + turn.context if number else turn.context
            yield turn.answer

    def _joined(self, row: Placed, parts: Iterator[list[int]]) -> Sample:
        input_ids, loss_mask = list(self.bos_ids), bytearray(len(self.bos_ids))
        for number in range(len(row.turns)):
            context, answer = next(parts), next(parts)
            if number:
                context = self._without_end(context, row.where)
            input_ids += context
            loss_mask += (b"\1" if self.learn_context else b"\0") * len(context)
            input_ids += answer
            loss_mask += b"\1" * len(answer)
        return Sample(input_ids, bytes(loss_mask))

    def _without_end(self, ids: list[int], where: str) -> list[int]:
        if ids[0] != self.stop_token_ids[0]:
            raise UserError(f"{where}: round trip: {self.end!r}, the end of an answer, is no token of its own")
        return ids[1:]

    def _check_round_trip(self, rows: list[Placed], texts: list[str], encoded: list[list[int]]) -> None:
        decoded = self.tokenizer.decode_batch(encoded, skip_special_tokens=False)
        if decoded == texts and all(ids[-1] in self.stop_token_ids for ids in self._answers(encoded)):
            return
        where = (row.where for row in rows for turn in row.turns for _ in range(1 + self.learn_context))
        is_answer = (index % 2 or not self.learn_context for index in range(len(texts)))
        for place, answers, expected, found, ids in zip(where, is_answer, texts, decoded, encoded, strict=True):
            if found != expected:
                raise UserError(
                    f"{place}: round trip: the tokenizer turns {expected!r:.200} into {found!r:.200}; "
                    "the model would learn other text than the data holds"
                )
            if answers and ids[-1] not in self.stop_token_ids:
                raise UserError(
                    f"{place}: round trip: the response {expected!r:.200} does not end in a token that stops generation"
                )

    def _answers(self, encoded: list[list[int]]) -> list[list[int]]:
        return encoded[1::2] if self.learn_context else encoded


def cut(sample: Sample, max_length: int) -> Sample | None:
    """Its first `max_length` tokens without an end of which nothing is learnt; None if that leaves nothing to learn."""
    last = sample.loss_mask.rfind(1, 1, max_length)
    return Sample(sample.input_ids[: last + 1], sample.loss_mask[: last + 1]) if last > 0 else None
