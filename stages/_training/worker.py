"""One training process: `python -m torch.distributed.run ... -m stages._training.worker SPEC`."""

import json
import logging
import os
import sys
from pathlib import Path

from pipeline.errors import PipelineError, UserError
from stages._training.spec import FAILURE_FILE, TrainSpec


def main(spec_file: str) -> int:
    """Train as the spec says. An expected failure is left in a file for the launcher to report."""
    logging.basicConfig(format="%(levelname)s: %(message)s")
    spec = TrainSpec.model_validate_json(Path(spec_file).read_text())
    from stages._training.engine import start_processes
    from stages._training.loop import Loop

    start_processes(spec)
    try:
        Loop(spec).run()
    except PipelineError as error:
        temporary = spec.out / f"{FAILURE_FILE}.{os.getpid()}"
        temporary.write_text(json.dumps({"message": str(error), "is_users": isinstance(error, UserError)}))
        temporary.replace(spec.out / FAILURE_FILE)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
