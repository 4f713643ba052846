"""Many gradient estimates in one launch: `python -m stages._training.agent ... tests.stages.gradient_runs SPECS`.

SPECS is a JSON file with a list of GradientSpecs, each as JSON text.
"""

import json
import sys
from pathlib import Path

from stages._training import engine as engines
from stages._training import gradients
from stages._training.spec import GradientSpec
from tests.stages.training_runs import partition_everything


def main(specs_file: str) -> None:
    specs = [GradientSpec.model_validate_json(spec) for spec in json.loads(Path(specs_file).read_text())]
    engines.start_processes(specs[0])
    partition_everything()
    for spec in specs:
        gradients.estimate(spec)
    engines.leave_processes()


if __name__ == "__main__":
    main(sys.argv[1])
