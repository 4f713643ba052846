"""One worker process: `python -m torch.distributed.run ... -m stages._training.worker SPEC`."""

import json
import logging
import os
import sys
from pathlib import Path

from pydantic import TypeAdapter

from pipeline.errors import PipelineError, UserError
from stages._training.spec import FAILURE_FILE, GradientSpec, TrainSpec


def main(spec_file: str) -> int:
    """Do as the spec says. An expected failure is left in a file for the launcher to report."""
    logging.basicConfig(format="%(levelname)s: %(message)s")
    spec: TrainSpec | GradientSpec = TypeAdapter(TrainSpec | GradientSpec).validate_json(Path(spec_file).read_text())
    from stages._training.engine import leave_processes, start_processes

    start_processes(spec)
    try:
        work(spec)
        leave_processes()
    except PipelineError as error:
        temporary = spec.out / f"{FAILURE_FILE}.{os.getpid()}"
        temporary.write_text(json.dumps({"message": str(error), "is_users": isinstance(error, UserError)}))
        temporary.replace(spec.out / FAILURE_FILE)
        return 1
    return 0


def work(spec: TrainSpec | GradientSpec) -> None:
    """Train, or estimate a gradient."""
    if isinstance(spec, GradientSpec):
        from stages._training.gradients import estimate

        estimate(spec)
    else:
        from stages._training.loop import Loop

        Loop(spec).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
