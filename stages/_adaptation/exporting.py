"""Write an adapter as an ordinary LoRA (or DoRA) of the untouched base, for PEFT and vLLM as they are released.

A core folds into its neighbour, A' = N A. A start that was taken off the base comes back as more columns:
s B N A - s B0 N0 A0 = s [B, -B0] [N A; N0 A0], of rank 2r; its singular value decomposition is what is written, since
the two halves are each far larger than their difference and would cancel in a short dtype.
"""

from __future__ import annotations

import math
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import LoraConfig

from pipeline import machine
from pipeline.artifact import Artifact
from pipeline.errors import UserError
from pipeline.stage import Resources, Workspace
from stages._adaptation.low_rank import LowRank
from stages._adaptation.merging import Update, read_updates
from stages._adaptation.quantization import read_quantization
from stages._adaptation.start import read_adapter
from stages._peft.config import task_type_of, write_config
from stages._peft.load import load_factors, save_factors
from stages._weights.index import stored_tensors
from stages._weights.targets import short_names
from stages.adapters.algebra import cast, folded
from stages.adapters.base import AdapterConfig, Factors

TEMPLATE_FILE = "template.json"


class Exported(NamedTuple):
    """One matrix's update s L M as it is stored."""

    product: LowRank
    """L M, in the dtype of the file"""
    scaling: float
    magnitude_O: torch.Tensor | None  # noqa: N815 - a shape suffix
    exact_rank: int
    """of the exact update as it is given"""
    error: float
    """How far s L M is from the exact update"""
    norm: float
    """of the exact update"""

    @property
    def relative_error(self) -> float:
        """0 for an update of zero."""
        return self.error / self.norm if self.norm else self.error

    def factors(self) -> Factors:
        """As they are written."""
        return Factors(self.product.M_RI, None, self.product.L_OR, self.magnitude_O)


class Form(NamedTuple):
    """What is asked of an export."""

    rank: int | None
    """At most; None: that of the exact update"""
    dtype: torch.dtype


def form(rank: int | None, dtype_name: str | None) -> Form:
    """From the names that a user knows; float32 by default."""
    return Form(rank, getattr(torch, dtype_name or "float32"))


def export_trained(
    model: Artifact, init_dir: Path, trained_dir: Path, form: Form, out: Workspace, resources: Resources
) -> dict[str, Any]:
    """Write what was trained: adapter_config.json, adapter_model.safetensors, template.json; what was done.

    Computed in float64 and rounded once; with a rank, each update is the nearest one of that rank (with DoRA its
    trained lengths stay). Raises UserError for a method without factors, and a rank above that of the exact update.
    """
    adapter = read_adapter(init_dir)
    if not isinstance(adapter, AdapterConfig):
        raise UserError(f"--format peft-lora: {adapter.method} trains the whole model, no adapter; use --format merged")
    shutil.copyfile(trained_dir / TEMPLATE_FILE, out / TEMPLATE_FILE)
    report = _export(adapter, model, read_updates(model.path, init_dir, trained_dir, adapter), form, out, resources)
    if quantization := read_quantization(trained_dir):
        report["notes"].append(
            f"trained on a base in {quantization.kind}, written for the base as it was: merge measures the difference"
        )
    return report


def export_start(model: Artifact, init_dir: Path, form: Form, out: Workspace, resources: Resources) -> dict[str, Any]:
    """Write a start that was not trained yet, likewise. Raises UserError for one that adds nothing to the base."""
    adapter = read_adapter(init_dir)
    if not isinstance(adapter, AdapterConfig) or adapter.subtracts_start:
        raise UserError(
            f"export: {adapter.method} as configured starts at the base model itself; export what it trains"
        )
    updates = {
        module: Update(factors, None, adapter.for_module(module).scaling)
        for module, factors in load_factors(init_dir).items()
    }
    return _export(adapter, model, updates, form, out, resources)


def _export(
    adapter: AdapterConfig,
    model: Artifact,
    updates: Mapping[str, Update],
    form: Form,
    out: Workspace,
    resources: Resources,
) -> dict[str, Any]:
    torch.set_num_threads(resources.num_threads or machine.cpu_count())
    exported = {}
    for number, (module, update) in enumerate(updates.items()):
        exported[module] = _exported(update, form)
        out.progress(number + 1, len(updates))
    if form.rank is not None:
        _refuse_needless(form.rank, exported)
    kept = {module: each for module, each in exported.items() if each.product.rank}
    if not kept:
        raise UserError(f"export: {adapter.method} left every matrix at rank 0, so there is no update to write")
    save_factors({module: each.factors() for module, each in kept.items()}, out.path)
    write_config(_lora_config(adapter, model, kept), out.path)
    return _report(adapter, model, exported, form)


def _exported(update: Update, form: Form) -> Exported:
    exact = exact_update(update)
    rank = exact.rank if form.rank is None else min(form.rank, exact.rank)
    as_it_is = rank == exact.rank and update.start is None
    stored = (exact if as_it_is else exact.truncated(rank)).to(form.dtype)
    if not all(factor.isfinite().all() for factor in stored):
        raise UserError(f"--dtype: found numbers that are too large for {_name(form.dtype)}, expected a wider dtype")
    magnitude_O = update.trained.magnitude_O
    return Exported(
        stored,
        update.scaling,
        None if magnitude_O is None else magnitude_O.to(form.dtype),
        exact.rank,
        update.scaling * exact.minus(stored.to(torch.float64)).norm(),
        update.scaling * exact.norm(),
    )


def exact_update(update: Update) -> LowRank:
    """The update without its scale, in float64: of rank r, or of 2r with a start to take off that has another B."""
    trained = _low_rank(update.trained)
    if update.start is None:
        return trained
    start = _low_rank(update.start)
    if torch.equal(trained.L_OR, start.L_OR):
        return LowRank(trained.L_OR, trained.M_RI - start.M_RI)
    return trained.minus(start)


def _low_rank(factors: Factors) -> LowRank:
    """B and N A without the rows of N A that a budget made zero, unless DoRA's lengths need a rank beside them."""
    right_RI, left_OR = folded(cast(factors, torch.float64))
    kept = right_RI.any(dim=1) | (factors.magnitude_O is not None)
    return LowRank(left_OR[:, kept], right_RI[kept])


def _refuse_needless(rank: int, exported: Mapping[str, Exported]) -> None:
    largest = max(each.exact_rank for each in exported.values())
    if rank > largest:
        raise UserError(f"--rank: got {rank}, expected at most {largest}, the rank of the exact export; leave it out")


def _lora_config(adapter: AdapterConfig, model: Artifact, exported: Mapping[str, Exported]) -> LoraConfig:
    """PEFT scales by alpha / rank, so alpha = s * rank; modules that differ from most are in the patterns."""
    ranks = {module: each.product.rank for module, each in exported.items()}
    alphas = {module: _integral(each.scaling * each.product.rank) for module, each in exported.items()}
    rank, alpha = (Counter(each.values()).most_common(1)[0][0] for each in (ranks, alphas))
    modules = sorted(name.removesuffix(".weight") for name in stored_tensors(model.path))
    source = _source(model)
    return LoraConfig(
        base_model_name_or_path=source.get("name"),
        revision=source.get("revision"),
        task_type=task_type_of(model.path),
        inference_mode=True,
        r=rank,
        lora_alpha=alpha,
        lora_dropout=adapter.dropout,
        target_modules=short_names(modules, sorted(exported)),
        rank_pattern=_pattern(ranks, rank),
        alpha_pattern=_pattern(alphas, alpha),
        use_dora=adapter.has_magnitude,
    )


def _pattern(values: Mapping[str, float], usual: float) -> dict[str, Any]:
    """PEFT takes a key for the end of a name; the anchor makes it the whole name."""
    return {f"^{module}": value for module, value in values.items() if value != usual}


def _integral(number: float) -> float:
    """An int where it is one, as a person would have written it."""
    return int(number) if number == int(number) else number


def _source(model: Artifact) -> dict[str, Any]:
    """Where the base came from, without this machine's folders: the section `model.source` of the recipe."""
    source = dict(model.manifest()["config"]["source"])
    return source | {"path": Path(source["path"]).name} if "path" in source else source


def _report(adapter: AdapterConfig, model: Artifact, exported: Mapping[str, Exported], form: Form) -> dict[str, Any]:
    matrices = [
        {"module": module, "rank": each.product.rank, "relative_error": each.relative_error}
        for module, each in exported.items()
    ]
    error, norm = (math.hypot(*sizes) for sizes in zip(*((e.error, e.norm) for e in exported.values()), strict=True))
    return {
        "method": adapter.method,
        "base": {**_source(model), "fingerprint": model.fingerprint},
        "rank": max(each.product.rank for each in exported.values()),
        "dtype": _name(form.dtype),
        "relative_error": error / norm if norm else error,
        "max_relative_error": max(each.relative_error for each in exported.values()),
        "matrices": matrices if form.rank is not None else [],
        "notes": ["vLLM serves no DoRA adapters: export with --format merged for it"] if adapter.has_magnitude else [],
    }


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
