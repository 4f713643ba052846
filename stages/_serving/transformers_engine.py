"""Answers by transformers in this process: no server, one prompt at a time. Slow, and the oracle of the tests."""

import asyncio
from pathlib import Path
from typing import Any, Self

from pipeline.stage import Resources
from stages._serving.engine import Completion
from stages._serving.prompt import Prompt
from stages._serving.requests import Sampling
from stages._serving.settings import Numerics


class TransformersEngine:
    """An `Engine`."""

    num_in_flight = 1

    def __init__(self, model_dir: Path, adapter_dir: Path | None, numerics: Numerics, resources: Resources) -> None:
        self.max_model_len: int | None = numerics.max_model_len
        self._model_dir = model_dir
        self._adapter_dir = adapter_dir
        self._dtype = numerics.dtype
        self._resources = resources

    async def __aenter__(self) -> Self:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        on_gpu = self._resources.device == "cuda" or (self._resources.device == "auto" and torch.cuda.is_available())
        if self._resources.num_threads:
            torch.set_num_threads(self._resources.num_threads)
        self._device = torch.device("cuda" if on_gpu else "cpu")
        self._tokenizer = AutoTokenizer.from_pretrained(self._model_dir, local_files_only=True)
        model = AutoModelForCausalLM.from_pretrained(self._model_dir, dtype=self._dtype, local_files_only=True)
        if self._adapter_dir:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, self._adapter_dir)
        self._model: Any = model.to(self._device).eval()
        return self

    async def __aexit__(self, *_: object) -> None:
        del self._model

    async def complete(self, prompt: Prompt, sampling: Sampling, seed: int) -> Completion:
        import torch

        await asyncio.sleep(0)  # the one place where a request to stop comes through
        ids = torch.tensor([prompt.token_ids], device=self._device)
        drawn = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
        torch.manual_seed(seed)
        output = self._model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=sampling.max_tokens,
            do_sample=sampling.temperature > 0,
            eos_token_id=list(prompt.stop_token_ids) or None,
            pad_token_id=0,
            stopping_criteria=[lambda all_ids, _: self._has_stopped(all_ids[0, ids.shape[1] :], prompt)],
            **(drawn if sampling.temperature > 0 else {"temperature": None, "top_p": None, "top_k": None}),
        )[0, ids.shape[1] :]
        text = self._text(output)
        ended = len(output) > 0 and int(output[-1]) in prompt.stop_token_ids
        cuts = [position for stop in prompt.stop if (position := text.find(stop)) >= 0]
        reason = "stop" if ended or cuts else "length"
        return Completion(text[: min(cuts)] if cuts else text, reason, ids.shape[1], len(output))

    async def loglikelihood(self, prompt: Prompt) -> Completion:
        """The log-softmax in float32 at the scored positions."""
        import torch

        await asyncio.sleep(0)
        ids, num_scored = prompt.token_ids or (), prompt.num_scored or 0
        if not num_scored:
            return Completion("", "scored", len(ids), 0, 0.0, True)
        with torch.inference_mode():
            input_T = torch.tensor([ids[:-1]], device=self._device)
            logits_SV = self._model(input_T, logits_to_keep=num_scored).logits[0].float()
        targets_S = torch.tensor(ids[-num_scored:], device=self._device)
        log_probs_S = logits_SV.log_softmax(-1).gather(1, targets_S[:, None])[:, 0]
        is_greedy = bool((logits_SV.argmax(-1) == targets_S).all())
        return Completion("", "scored", len(ids), 0, float(log_probs_S.sum(dtype=torch.float64)), is_greedy)

    def _has_stopped(self, generated_ids: Any, prompt: Prompt) -> Any:
        import torch

        text = self._text(generated_ids) if prompt.stop else ""
        return torch.tensor([any(stop in text for stop in prompt.stop)], device=self._device)

    def _text(self, ids: Any) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))
