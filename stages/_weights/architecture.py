"""What is known of a model before it is loaded, from its config.json or a GGUF header: its tensor shapes, and whether
it says text. Standard library only.

Shapes are known for the Llama family (llama, mistral, qwen2, qwen3); for anything else the answer is None, and what
would have been checked is checked by the step itself.
"""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

Shapes = dict[str, tuple[int, ...]]
_LLAMA_LIKE = {"llama", "mistral", "qwen2", "qwen3"}
_LANGUAGE_MODELS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
_TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")


def shapes_of_config(config: Mapping[str, Any]) -> Shapes | None:
    """Tensor name -> shape for the content of a config.json."""
    if config.get("model_type") not in _LLAMA_LIKE:
        return None
    heads = config["num_attention_heads"]
    return llama_shapes(
        hidden=config["hidden_size"],
        intermediate=config["intermediate_size"],
        num_layers=config["num_hidden_layers"],
        num_heads=heads,
        num_kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or config["hidden_size"] // heads,
        vocabulary=config["vocab_size"],
        tied=bool(config.get("tie_word_embeddings", False)),
    )


def shapes_of_folder(model_dir: Path) -> Shapes | None:
    """The same for a folder with a config.json."""
    return shapes_of_config(read_config(model_dir))


def read_config(model_dir: Path) -> dict[str, Any]:
    """The content of a folder's config.json; nothing if there is none."""
    file = model_dir / "config.json"
    return dict(json.loads(file.read_text())) if file.exists() else {}


def says_no_text(config: Mapping[str, Any]) -> bool:
    """Whether a model is known to be no language model, by the name of its class."""
    architectures = config.get("architectures") or []
    return bool(architectures) and not any(name.endswith(_LANGUAGE_MODELS) for name in architectures)


def shapes_of_gguf(file: Path) -> Shapes | None:
    """The same for a GGUF file, from its header alone (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md)."""
    with file.open("rb") as stream:
        values, tensors = _gguf_header(stream)
    name = values.get("general.architecture")
    if name not in _LLAMA_LIKE:
        return None
    heads = values[f"{name}.attention.head_count"]
    hidden = values[f"{name}.embedding_length"]
    return llama_shapes(
        hidden=hidden,
        intermediate=values[f"{name}.feed_forward_length"],
        num_layers=values[f"{name}.block_count"],
        num_heads=heads,
        num_kv_heads=values.get(f"{name}.attention.head_count_kv", heads),
        head_dim=values.get(f"{name}.attention.key_length", hidden // heads),
        vocabulary=tensors["token_embd.weight"][-1],
        tied="output.weight" not in tensors,
    )


def probe_problems(model_dir: Path) -> list[str]:
    """A line if a model cannot read texts and say what comes next, as far as its files tell."""
    config = read_config(model_dir)
    if says_no_text(config):
        found = f"found a {config['architectures'][0]}, expected a causal language model"
    elif not any((model_dir / name).exists() for name in _TOKENIZERS):
        found = f"found no tokenizer in {model_dir}"
    else:
        return []
    return [f"init.probe: {found}; set init.probe: false, and the start's loss is not measured"]


def llama_shapes(
    *,
    hidden: int,
    intermediate: int,
    num_layers: int,
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
    vocabulary: int,
    tied: bool,
) -> Shapes:
    """The tensors of a Llama-like decoder (without biases, which weigh nothing)."""
    query, key_value = num_heads * head_dim, num_kv_heads * head_dim
    layer: Shapes = {
        "self_attn.q_proj.weight": (query, hidden),
        "self_attn.k_proj.weight": (key_value, hidden),
        "self_attn.v_proj.weight": (key_value, hidden),
        "self_attn.o_proj.weight": (hidden, query),
        "mlp.gate_proj.weight": (intermediate, hidden),
        "mlp.up_proj.weight": (intermediate, hidden),
        "mlp.down_proj.weight": (hidden, intermediate),
        "input_layernorm.weight": (hidden,),
        "post_attention_layernorm.weight": (hidden,),
    }
    shapes: Shapes = {"model.embed_tokens.weight": (vocabulary, hidden), "model.norm.weight": (hidden,)}
    for number in range(num_layers):
        shapes |= {f"model.layers.{number}.{name}": shape for name, shape in layer.items()}
    return shapes if tied else {**shapes, "lm_head.weight": (vocabulary, hidden)}


_GGUF_NUMBERS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_GGUF_STRING, _GGUF_ARRAY = 8, 9


def _gguf_header(stream: BinaryIO) -> tuple[dict[str, Any], Shapes]:
    """(metadata without its arrays, tensor name -> dimensions in GGUF's order: innermost first)."""
    if stream.read(4) != b"GGUF":
        raise ValueError(f"{stream.name}: not a GGUF file")
    _version, num_tensors, num_values = _number(stream, "<I"), _number(stream, "<Q"), _number(stream, "<Q")
    values = {_string(stream): _value(stream, _number(stream, "<I")) for _ in range(num_values)}
    tensors: Shapes = {}
    for _ in range(num_tensors):
        name = _string(stream)
        tensors[name] = tuple(_number(stream, "<Q") for _ in range(_number(stream, "<I")))
        stream.seek(12, 1)  # its type and data offset
    return values, tensors


def _value(stream: BinaryIO, kind: int) -> Any:
    if kind == _GGUF_STRING:
        return _string(stream)
    if kind == _GGUF_ARRAY:
        return _skip_array(stream, _number(stream, "<I"), _number(stream, "<Q"))
    return _number(stream, _GGUF_NUMBERS[kind])


def _skip_array(stream: BinaryIO, kind: int, length: int) -> None:
    if kind != _GGUF_STRING:
        stream.seek(length * struct.calcsize(_GGUF_NUMBERS[kind]), 1)
        return
    for _ in range(length):
        stream.seek(_number(stream, "<Q"), 1)


def _string(stream: BinaryIO) -> str:
    return stream.read(_number(stream, "<Q")).decode()


def _number(stream: BinaryIO, layout: str) -> Any:
    return struct.unpack(layout, stream.read(struct.calcsize(layout)))[0]
