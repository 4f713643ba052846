"""How fast adapters start on the shapes of Mistral-7B, beside PEFT's own starts, as one Markdown table.

    python -m benchmarks.init [--dir DIR] [--rounds 3] [--layers 32] [--only REGEX]

Every line is a process of its own that starts adapters of rank 128 from sharded bfloat16 files and writes them; its
number is the median of `--rounds`, taken in turns, with the files in the page cache (lines of more than 20 s run once).
Methods that would take minutes are measured on a part of the model, which the line names: a whole layer has one matrix
of each of the seven shapes, so its seconds per matrix are those of the model. Ratios compare seconds per matrix with
PEFT's `pissa_niter_4` on the same part and with plain LoRA on the model. PEFT's lines start from weights in memory;
ours read them.

The folders of weights (15 GB, and holes in the shapes of Llama-2-70B) are made once below `--dir` and kept there. Exit
code 1 when a number misses its bar.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Literal, NamedTuple

from pipeline.machine import cpu_count

ROOT = Path(__file__).parents[1]
ONCE_SECONDS = 20.0
MODEL, LAYERS, LAYER, MATRIX = "model", "4 layers", "1 layer", "q_proj"
TARGETS = {
    LAYERS: r"model\.layers\.[0-3]\..*",
    LAYER: r"model\.layers\.0\..*",
    MATRIX: r"model\.layers\.0\.self_attn\.q_proj",
}


@dataclass
class Case:
    """One line: a start on a part of the model."""

    name: str
    part: str
    adapter: dict[str, Any]
    kind: str = "ours"
    folder: str = "mistral-7b"
    seconds: list[float] = field(default_factory=list)
    measured: dict[str, Any] = field(default_factory=dict)

    def measure(self, folder: Path) -> None:
        """Run it once more, unless it is too slow for that."""
        if self.seconds and self.median > ONCE_SECONDS:
            return
        adapter = self.adapter | ({"targets": TARGETS[self.part]} if self.part in TARGETS else {})
        command = [sys.executable, "-m", "benchmarks.init_case", self.kind, folder / self.folder, json.dumps(adapter)]
        os.sync()  # what the line before wrote is not to slow this one down
        done = subprocess.run(list(map(str, command)), cwd=ROOT, check=True, stdout=subprocess.PIPE)
        self.measured = json.loads(done.stdout)
        self.seconds.append(self.measured["seconds"])

    @property
    def median(self) -> float:
        """Seconds."""
        return median(self.seconds)

    @property
    def per_matrix(self) -> float:
        """Seconds."""
        return self.median / self.measured["num_matrices"]


def nlora(part: str = MODEL, **options: Any) -> Case:
    """NLoRA with these options."""
    text = ", ".join(f"{key}: {value}" for key, value in options.items())
    return Case(f"nlora, {text}" if text else "nlora", part, {"method": "nlora", **options})


def peft(init: bool | str, part: str) -> Case:
    """PEFT itself."""
    name = "lora" if init is True else init
    return Case(f"PEFT {name}", part, {"init_lora_weights": init}, kind="peft")


def cases() -> list[Case]:
    """The table. Each part's `PEFT pissa_niter_4` stands before the lines that are compared with it."""
    return [
        peft("pissa_niter_4", LAYER),
        peft("pissa_niter_4", MATRIX),
        Case("lora", MODEL, {"method": "lora"}),
        Case("slora", MODEL, {"method": "slora"}),
        nlora(),
        nlora(residual="keep"),
        nlora(core="pinv"),
        nlora(sampling="uniform"),
        nlora(LAYERS, sampling="norm"),
        nlora(LAYER, sampling="leverage"),
        nlora(LAYERS, scale=0.1),
        nlora(LAYERS, core="least_squares"),
        Case("pissa, svd: fast", LAYER, {"method": "pissa", "svd": "fast"}),
        Case("pissa, svd: exact", MATRIX, {"method": "pissa"}),
        Case("olora", LAYER, {"method": "olora"}),
        peft(True, LAYER),
        peft("pissa", MATRIX),
        peft("olora", LAYER),
        Case("nlora, Llama-2-70B's shapes", MODEL, {"method": "nlora"}, folder="llama-70b"),
    ]


def main() -> int:
    """Measure, print the table, and tell whether every bar is met."""
    arguments = parse_arguments()
    chosen = [case for case in cases() if re.search(arguments.only, f"{case.name} | {case.part}")]
    load = os.getloadavg()[0]
    make_folders(arguments, {case.folder for case in chosen})
    folder = arguments.dir / f"{arguments.layers}"
    for _ in range(arguments.rounds):
        warm(folder / "mistral-7b")
        for case in chosen:
            case.measure(folder)
    by_name = {f"{case.name} | {case.part}": case for case in chosen}
    print(markdown(chosen, by_name))
    found = list(bars(by_name))
    for bar in found:
        print(f"- {bar.text}: {bar.found:.3g}, bar {bar.sign} {bar.limit:g}: {'met' if bar.met else 'MISSED'}")
    print(f"\nmedians of {arguments.rounds} rounds, {cpu_count()} cores, load {load:.1f} before the start")
    return 0 if all(bar.met for bar in found) else 1


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=Path, default=Path(tempfile.gettempdir()) / "nlora-benchmark")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--layers", type=int, default=32, help="of the 7B shapes; fewer make smaller files")
    parser.add_argument("--only", default="", help="a regex: the lines whose `name | part` it matches")
    return parser.parse_args()


def make_folders(arguments: argparse.Namespace, names: set[str]) -> None:
    """Write the weights that are asked for."""
    from benchmarks import model_files  # takes torch, which only this process's children need otherwise

    folder = arguments.dir / f"{arguments.layers}"
    if "mistral-7b" in names:
        model_files.write_model(folder / "mistral-7b", model_files.mistral_7b(arguments.layers), sparse=False)
    if "llama-70b" in names:
        model_files.write_model(folder / "llama-70b", model_files.llama_70b(), sparse=True)


def warm(folder: Path) -> None:
    """Read the files, so that the page cache has them where memory allows."""
    buffer = bytearray(2**24)
    for file in folder.glob("*.safetensors"):
        with file.open("rb", buffering=0) as stream:
            while stream.readinto(buffer):
                pass


class Bar(NamedTuple):
    """What a number has to be."""

    text: str
    found: float
    sign: Literal["<=", ">="]
    limit: float

    @property
    def met(self) -> bool:
        """Whether it is."""
        return self.found <= self.limit if self.sign == "<=" else self.found >= self.limit


def bars(cases: dict[str, Case]) -> Iterator[Bar]:
    """Every bar whose lines were measured."""
    ours, large = cases.get(f"nlora | {MODEL}"), cases.get(f"nlora, Llama-2-70B's shapes | {MODEL}")
    lora, niter = cases.get(f"lora | {MODEL}"), cases.get(f"PEFT pissa_niter_4 | {LAYER}")
    squares, fast = cases.get(f"nlora, core: least_squares | {LAYERS}"), cases.get(f"pissa, svd: fast | {LAYER}")
    if ours:
        yield Bar("NLoRA on the 224 matrices of Mistral-7B, seconds", ours.per_matrix * 224, "<=", 3)
    for each in filter(None, (ours, large)):
        yield Bar(f"{each.name}: peak memory in GiB", each.measured["peak_bytes"] / 2**30, "<=", 1.5)
    if ours and niter:
        yield Bar("NLoRA times faster than PEFT's pissa_niter_4", niter.per_matrix / ours.per_matrix, ">=", 50)
    if ours and lora:
        yield Bar("NLoRA's time over plain LoRA's, both with writing", ours.per_matrix / lora.per_matrix, "<=", 1.5)
    if squares and fast:
        yield Bar("least_squares' time over a fast SVD's", squares.per_matrix / fast.per_matrix, "<=", 10)


def markdown(chosen: list[Case], by_name: dict[str, Case]) -> str:
    """The table."""
    lines = [
        "| start | part | matrices | seconds | ms a matrix | peak memory | read | times `pissa_niter_4`'s speed "
        "| times LoRA's time |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for case in chosen:
        niter = by_name.get(f"PEFT pissa_niter_4 | {MATRIX if case.part == MATRIX else LAYER}")
        lora = by_name.get(f"lora | {MODEL}")
        found = case.measured
        lines.append(
            f"| {case.name} | {case.part} | {found['num_matrices']} | {case.median:.2f} | {case.per_matrix * 1e3:.1f} "
            f"| {found['peak_bytes'] / 2**20:,.0f} MiB | {found['bytes_read'] / 1e6:,.0f} MB "
            f"| {_ratio(niter, case, case.folder)} | {_ratio(case, lora, case.folder)} |"
        )
    return "\n".join(lines)


def _ratio(above: Case | None, below: Case | None, folder: str) -> str:
    """Of seconds per matrix; empty where there is nothing to compare, or shapes of another model."""
    if above is None or below is None or folder != "mistral-7b":
        return ""
    return f"{above.per_matrix / below.per_matrix:.3g}"


if __name__ == "__main__":
    sys.exit(main())
