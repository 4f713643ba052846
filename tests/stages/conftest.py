"""A tiny random Llama with its tokenizer, and tokens for it: small enough to build in every test session."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.artifact import Artifact
from pipeline.stage import Resources, Workspace
from stages._data.prompts import Chat
from tests.stages.templates import write_template

NUMBERS = "one two three four five six seven eight nine ten"
WORDS = f"the a {NUMBERS} apples pears has have buys sells how many left ? . +".split()
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder in the hub's layout: hidden 64, 2 layers, tied embeddings, float32, two shards."""
    folder = tmp_path_factory.mktemp("tiny_model")
    write_tiny_model(folder)
    return folder


@pytest.fixture
def tiny_model(tiny_model_dir: Path) -> Artifact:
    """The tiny model as an input artifact."""
    return artifact(tiny_model_dir, "prepare_model")


@pytest.fixture(scope="session")
def tiny_tokens_dir(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenize artifact: 40 training and 10 validation samples of 8 to 30 tokens."""
    folder = tmp_path_factory.mktemp("tiny_tokens")
    write_tokens(folder / "train.safetensors", num_samples=40, seed=0)
    write_tokens(folder / "validation.safetensors", num_samples=10, seed=1)
    return write_template(Chat(kind="chat"), tiny_model_dir, folder)


@pytest.fixture
def tiny_tokens(tiny_tokens_dir: Path) -> Artifact:
    """The tokens as an input artifact."""
    return artifact(tiny_tokens_dir, "tokenize")


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """An empty folder for a stage to write into."""
    folder = tmp_path / "out"
    folder.mkdir()
    return Workspace(folder)


@pytest.fixture
def resources(tmp_path: Path) -> Resources:
    """CPU, one thread, a store of its own."""
    return Resources(device="cpu", num_threads=1, store_dir=tmp_path / "store")


def artifact(path: Path, stage: str, fingerprint: str = "0" * 64) -> Artifact:
    """A folder as the input of a stage."""
    return Artifact(path=path, stage=stage, fingerprint=fingerprint)


def write_tiny_model(folder: Path, **overrides: Any) -> None:
    """Write the tiny model; `overrides` change its LlamaConfig."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    write_tiny_tokenizer(folder)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    values = {**shape, "num_key_value_heads": 2, "vocab_size": 64, "tie_word_embeddings": True, **overrides}
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**values, bos_token_id=0, eos_token_id=1, pad_token_id=2))
    model.save_pretrained(folder, max_shard_size="150KB")


def write_tiny_tokenizer(folder: Path) -> None:
    """A word-level tokenizer of 64 entries with a chat template."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<|im_start|>", "<|im_end|>", "<|pad|>", "<unk>"]
    names = [*special, "\n", " ", *WORDS, *"0123456789", "user", "assistant", "system"]
    vocabulary = {token: number for number, token in enumerate(names)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\d|\w+|\s|[^\w\s]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=special[0],
        eos_token=special[1],
        pad_token=special[2],
        unk_token=special[3],
        chat_template=CHAT_TEMPLATE,
    )
    fast.save_pretrained(folder)


def write_tokens(file: Path, num_samples: int, seed: int) -> None:
    """Random samples in the tokenize format: counting upwards, so that there is something to learn."""
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(8, 31, (num_samples,), generator=generator)
    starts = torch.randint(6, 30, (num_samples,), generator=generator)
    samples = [start + torch.arange(length) for start, length in zip(starts, lengths, strict=True)]
    masks = [torch.arange(len(sample)) >= 4 for sample in samples]
    save_file(
        {
            "input_ids": torch.cat(samples).to(torch.int32),
            "loss_mask": torch.cat(masks).to(torch.uint8),
            "offsets": torch.cat([torch.zeros(1), lengths.cumsum(0)]).to(torch.int64),
        },
        file,
    )
