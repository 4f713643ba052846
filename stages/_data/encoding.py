"""Examples as token ids in flat arrays, checked by decoding them again."""

from array import array
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import UserError
from stages._data.formats import Example
from stages._data.template import Template

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PERCENTILES = (50, 90, 99)


class Samples:
    """The samples of one split: a few bytes a token, however many there are."""

    def __init__(self) -> None:
        self.input_ids = array("i")
        self.loss_mask = bytearray()
        self.offsets = array("q", [0])
        self.num_truncated = 0
        self.num_dropped = 0

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def append(self, prompt_ids: list[int], response_ids: list[int]) -> None:
        """Add a sample of which only the response is to be learnt."""
        self.input_ids.extend(prompt_ids)
        self.input_ids.extend(response_ids)
        self.loss_mask.extend(b"\0" * len(prompt_ids) + b"\1" * len(response_ids))
        self.offsets.append(len(self.input_ids))

    def save(self, path: Path) -> None:
        """Write `input_ids` int32 [tokens], `loss_mask` uint8 [tokens], `offsets` int64 [samples + 1]."""
        import numpy
        from safetensors.numpy import save_file

        tensors = {
            "input_ids": numpy.frombuffer(self.input_ids, dtype=numpy.int32),
            "loss_mask": numpy.frombuffer(self.loss_mask, dtype=numpy.uint8),
            "offsets": numpy.frombuffer(self.offsets, dtype=numpy.int64),
        }
        save_file(tensors, path)

    def report(self) -> dict[str, Any]:
        """How many samples and tokens, how many are learnt, what was cut, and lengths in tokens."""
        import numpy

        lengths = numpy.diff(numpy.frombuffer(self.offsets, dtype=numpy.int64))
        return {
            "num_samples": len(self),
            "num_tokens": len(self.input_ids),
            "num_trained_tokens": sum(self.loss_mask),
            "num_truncated": self.num_truncated,
            "num_dropped": self.num_dropped,
            "length_mean": round(float(lengths.mean()), 1),
            **{f"length_p{p}": int(numpy.percentile(lengths, p, method="higher")) for p in PERCENTILES},
            "length_max": int(lengths.max()),
        }


class Encoder:
    """Encodes prompt and response apart and joins the ids, so that generation sees the very prompt of training."""

    def __init__(self, template: Template, tokenizer: "Tokenizer", max_length: int) -> None:
        self.template = template
        self.tokenizer = tokenizer
        self.max_length = max_length

    def add(self, examples: list[Example], samples: Samples) -> None:
        """Append the examples' tokens. Raises UserError if decoding a response does not give it back."""
        responses = [self.template.render_answer(example.response) for example in examples]
        prompts = self._encode([self.template.render_prompt(example.messages) for example in examples])
        answers = self._encode(responses)
        self._check_round_trip(responses, answers)
        for prompt_ids, response_ids in zip(prompts, answers, strict=True):
            self._append(self.template.with_bos(prompt_ids), response_ids, samples)

    def _append(self, prompt_ids: list[int], response_ids: list[int], samples: Samples) -> None:
        room = self.max_length - len(prompt_ids)
        if room < 1:
            samples.num_dropped += 1
            return
        samples.num_truncated += len(response_ids) > room
        samples.append(prompt_ids, response_ids[:room])

    def _encode(self, texts: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self.tokenizer.encode_batch(texts, add_special_tokens=False)]

    def _check_round_trip(self, responses: list[str], answers: list[list[int]]) -> None:
        for expected, found, ids in zip(responses, self._decode(answers), answers, strict=True):
            if found != expected:
                raise UserError(
                    f"round trip: the tokenizer turns the response {expected!r:.200} into {found!r:.200}; "
                    "the model would learn other text than the data holds"
                )
            if ids[-1] not in self.template.stop_token_ids:
                raise UserError(
                    f"round trip: the response {expected!r:.200} does not end in a token that stops generation"
                )

    def _decode(self, answers: list[list[int]]) -> list[str]:
        return self.tokenizer.decode_batch(answers, skip_special_tokens=False)
