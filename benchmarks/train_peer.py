"""The peer of `benchmarks.train`: transformers' Trainer with a PEFT LoRA, right-padded, as people write it.

    python -m torch.distributed.run --nproc-per-node=2 -m benchmarks.train_peer ORDER_FILE

Logits of the whole vocabulary are computed at every position, since the Trainer hands the labels to the model.
"""

import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from torch.utils.data import Dataset, SequentialSampler
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from stages._training.batches import TokenFile


class Rows(Dataset):
    """The samples in the order in which the pipeline takes them."""

    def __init__(self, tokens: TokenFile, rows: list[int]) -> None:
        self.tokens, self.rows = tokens, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> dict[str, list[int]]:
        batch = self.tokens.batch(np.array([self.rows[number]]))
        labels = batch.input_ids.masked_fill(~batch.is_target, -100)
        ids = batch.input_ids[0].tolist()
        return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels[0].tolist()}


class InOrder(Trainer):
    """A Trainer that does not shuffle what is in order already."""

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        return SequentialSampler(dataset or self.train_dataset)


class Clock(TrainerCallback):
    """Seconds from the beginning to the end of each step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.began = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds.append(time.perf_counter() - self.began)


def main(order: dict[str, Any]) -> None:
    """Train, and leave seconds and loss of each step, and this process's peak memory, in a file of its rank."""
    torch.set_num_threads(order["num_threads"])
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(order["model"], dtype=torch.float32, local_files_only=True)
    lora = LoraConfig(r=order["rank"], lora_alpha=order["rank"], target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(model, lora)
    tokenizer = AutoTokenizer.from_pretrained(order["model"], local_files_only=True)
    clock = Clock()
    trainer = InOrder(
        model=model,
        args=TrainingArguments(
            output_dir=order["out"],
            use_cpu=True,
            ddp_backend="gloo",
            ddp_find_unused_parameters=False,
            per_device_train_batch_size=order["per_device_batch_size"],
            max_steps=order["num_steps"],
            learning_rate=2e-4,
            lr_scheduler_type="constant",
            save_strategy="no",
            logging_steps=1,
            disable_tqdm=True,
            report_to=[],
        ),
        train_dataset=Rows(TokenFile(Path(order["tokens"])), order["rows"]),
        data_collator=DataCollatorForSeq2Seq(tokenizer, padding=True),
        callbacks=[clock],
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    result = {"seconds": clock.seconds, "losses": losses, "peak_bytes": peak_bytes}
    Path(order["out"], f"rank-{os.environ['RANK']}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
