"""How start, residual and learning rate decide what a few steps can do, as one Markdown table.

    python -m benchmarks.starts [--store store] [--set KEY=VALUE ...]

Each row is a run of recipes/starts.yaml through the pipeline itself, up to its train step: one seed, held-out loss in
nats a token before and after 40 steps. Rows that are in the store already are read from it. `--set` changes the recipe
for all rows, such as the data: `--set 'tracks.math.data.source={kind: files, train: a.jsonl, validation: b.jsonl}'`.
"""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from pipeline import plan
from pipeline.store import Store

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "recipes" / "starts.yaml"
STEP = "math/train"


class Row(NamedTuple):
    """One run: an adapter and its learning rate."""

    adapter: str
    learning_rate: float

    @property
    def overrides(self) -> list[str]:
        """What it changes in the recipe."""
        return [f"init.adapter={{{self.adapter}}}", f"train.learning_rate={self.learning_rate}"]


ROWS = [
    Row("method: lora, rank: 16", 2e-4),
    Row("method: lora, rank: 16", 1e-3),
    Row("method: slora, rank: 16", 2e-4),
    Row("method: slora, rank: 16", 1e-3),
    Row("method: pissa, rank: 16", 2e-4),
    Row("method: pissa, rank: 16", 1e-3),
    Row("method: nlora, rank: 16, residual: keep", 2e-4),
    Row("method: nlora, rank: 16", 2e-4),
    Row("method: nlora, rank: 16", 1e-3),
    Row("method: nlora, rank: 16, core: least_squares", 2e-4),
    Row("method: nlora, rank: 16, core: least_squares", 1e-3),
    Row("method: nlora, rank: 16, scale: 0.1", 2e-4),
    Row("method: nlora, rank: 16, scale: 0.1", 1e-3),
    Row("method: inttune, rank: 64", 2e-3),
]


def main(arguments: argparse.Namespace) -> int:
    """Run what is missing, then print the table."""
    print("| adapter | learning rate | trained | update / weight, largest | loss at the start | after training |")
    print("|---|---:|---:|---:|---:|---:|")
    for row in ROWS:
        overrides = [*arguments.overrides, *row.overrides]
        run(arguments.store, overrides)
        print(line(row, arguments.store, overrides), flush=True)
    return 0


def run(store: Path, overrides: list[str]) -> None:
    """Run the recipe up to its train step; raises CalledProcessError when it fails."""
    settings = [part for override in overrides for part in ("--set", override)]
    command = [sys.executable, "-m", "pipeline", "run", str(RECIPE), "--store", str(store), "--until", STEP]
    subprocess.run([*command, *settings], cwd=ROOT, check=True, stdout=sys.stderr)


def line(row: Row, store: Path, overrides: list[str]) -> str:
    """One row of the table, from the store."""
    train = plan.load(RECIPE, overrides).find(STEP)
    started, trained = (metrics(store, step) for step in (train.inputs["adapter"], train))
    return (
        f"| {row.adapter.removeprefix('method: ')} | {row.learning_rate:g} | {trained['trainable_parameters']:,} "
        f"| {started['relative_update_max']:.2f} | {trained['validation_loss_start']:.3f} "
        f"| {trained['validation_loss_end']:.3f} |"
    )


def metrics(store: Path, step: Any) -> dict[str, Any]:
    """What a finished step measured."""
    return Store(store).artifact(step.stage, step.fingerprint).metrics()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, default=ROOT / "store", help="where results are and go")
    parser.add_argument("--set", dest="overrides", action="append", default=[], help="change the recipe for all rows")
    sys.exit(main(parser.parse_args()))
