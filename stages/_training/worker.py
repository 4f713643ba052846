"""One worker process: `python -m stages._training.worker SPEC`, started by the launch agent."""

import logging
import os
import sys
import traceback
from pathlib import Path

from pydantic import TypeAdapter

from pipeline.errors import PipelineError, UserError
from stages._training import reports
from stages._training.spec import GradientSpec, TrainSpec


def main(spec_file: str) -> int:
    """Do as the spec says. What goes wrong is reported to the launcher; a traceback is for its log."""
    logging.basicConfig(format="%(levelname)s: %(message)s")
    spec: TrainSpec | GradientSpec = TypeAdapter(TrainSpec | GradientSpec).validate_json(Path(spec_file).read_text())
    from stages._training.engine import leave_processes, start_processes

    start_processes(spec)
    try:
        work(spec)
        leave_processes()
    except PipelineError as error:
        reports.write(message=str(error), is_users=isinstance(error, UserError))
    except Exception as error:  # noqa: BLE001  whatever it is, the others wait for this process
        traceback.print_exc()
        _report_trouble(spec, error)
    else:
        return 0
    os._exit(1)  # an orderly exit may wait for threads of a backend that wait for the other processes


def work(spec: TrainSpec | GradientSpec) -> None:
    """Train, or estimate a gradient."""
    if isinstance(spec, GradientSpec):
        from stages._training.gradients import estimate

        estimate(spec)
    else:
        from stages._training.loop import Loop

        Loop(spec).run()


def _report_trouble(spec: TrainSpec | GradientSpec, error: Exception) -> None:
    """Say what the log's last lines would not."""
    from stages._training.failures import disk_failure, memory_failure, peak_memory_bytes

    if asked := memory_failure(error):
        reports.write(out_of_memory=asked, peak_memory_bytes=peak_memory_bytes(spec.device))
    elif full := disk_failure(error):
        reports.write(disk_full=full)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
