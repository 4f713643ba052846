"""A launch of toy ranks: `python -m tests.slurm.toy_training SPEC NUM_PROCESSES`; roles.json lies beside SPEC.

Its exit code is that of the error which the launcher raises, whose text goes to standard error.
"""

import sys
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.stage import Resources
from stages._training import launch, nodes
from stages._training.spec import TrainSpec

if __name__ == "__main__":
    nodes.WORKER = "tests.stages.toy_rank"
    spec = TrainSpec.model_validate_json(Path(sys.argv[1]).read_text())
    try:
        launch.run_workers("train", spec, Resources(device="cpu", num_processes=int(sys.argv[2]), num_threads=1))
    except PipelineError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
