"""A launch of toy ranks, two a node: `python -m tests.slurm.toy_training SPEC`; roles.json lies beside SPEC.

Its exit code is that of the error which the launcher raises, whose text goes to standard error.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil

from pipeline.errors import PipelineError
from pipeline.stage import Resources
from stages import train
from stages._training import launch, nodes
from stages._training.spec import TrainSpec
from tests.slurm.cluster import Cluster

TWO_NODES = ("--nodes=2", "--cpus-per-task=1", "--no-requeue")


def submit(cluster: Cluster, folder: Path, roles: Sequence[str], *options: str) -> str:
    """Its job; it works in `folder`."""
    folder.mkdir()
    (folder / "roles.json").write_text(json.dumps(dict(enumerate(roles))))
    spec = TrainSpec(
        config=train.Config(per_device_batch_size=1),
        model_dir=folder,
        tokens_dir=folder,
        adapter_dir=folder,
        keep_last=2,
        keep_best=0,
        out_dir=folder,
        device="cpu",
        num_threads=1,
        accumulation=1,
        per_device_batch_size=1,
    )
    (folder / "spec.json").write_text(spec.model_dump_json())
    words = f"-m tests.slurm.toy_training '{folder}/spec.json'"
    return cluster.python_job(words, folder / "log", *TWO_NODES, *options)


def ranks(folder: Path) -> list[psutil.Process]:
    """Those that live."""
    return [each for each in processes(folder) if "tests.stages.toy_rank" in each.info["cmdline"]]


def processes(folder: Path) -> list[psutil.Process]:
    """All that live and have the folder in their command."""
    running = [each for each in psutil.process_iter(["cmdline", "status"]) if each.info["status"] != "zombie"]
    return [each for each in running if any(str(folder) in word for word in each.info["cmdline"] or [])]


if __name__ == "__main__":
    nodes.WORKER = "tests.stages.toy_rank"
    given = TrainSpec.model_validate_json(Path(sys.argv[1]).read_text())
    try:
        launch.run_workers("train", given, Resources(device="cpu", num_processes=2, num_threads=1))
    except PipelineError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
