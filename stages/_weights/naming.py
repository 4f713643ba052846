"""The names that weights have in the loaded model, where they differ from those in the files that it is loaded from.

transformers renames the weights of some architectures while it loads them (of a ViT, `encoder.layer.0.output.dense`
becomes `layers.0.mlp.fc2`; the names of a bare model get the prefix that they have below a head). Adapters name
modules as they are in memory, so such a model is written under these names, which transformers loads as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from stages._weights.architecture import read_config, says_no_text


def loaded_names(model_dir: Path, names: Iterable[str]) -> dict[str, str]:
    """Name in the files -> name in memory, of every tensor.

    The same names for a language model, whose files other programs read too (vLLM, by the hub's names); where
    transformers does not know the architecture; and where it fuses weights while it loads them, which no renaming does.
    """
    config = read_config(model_dir)
    model = _skeleton(model_dir, config) if says_no_text(config) else None
    return {name: name for name in names} if model is None else _renamed(model, list(names))


def _skeleton(model_dir: Path, config: dict[str, Any]) -> Any:
    """The model without its weights."""
    import torch
    import transformers

    model_class = getattr(transformers, config["architectures"][0], None)
    if model_class is None:
        return None
    with torch.device("meta"):
        return model_class(transformers.AutoConfig.from_pretrained(model_dir, local_files_only=True))


def _renamed(model: Any, names: list[str]) -> dict[str, str]:
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    transforms = get_model_conversion_mapping(model)
    renamings = [each for each in transforms if isinstance(each, WeightRenaming)]
    converters = [each for each in transforms if isinstance(each, WeightConverter)]
    state = model.state_dict()
    found = {}
    for name in names:
        renamed, fused = rename_source_key(name, renamings, converters, model.base_model_prefix, state)
        if fused is not None:
            return {each: each for each in names}
        found[name] = renamed if renamed in state else name
    return found
