"""Add up numbers."""

from pipeline.artifact import Artifact
from pipeline.errors import StepFailed
from pipeline.stage import Resources, Workspace
from pipeline.strict import StrictModel

VERSION = 1


class Config(StrictModel):
    scale: float = 1.0
    fail: bool = False


class Inputs(StrictModel):
    numbers: dict[str, Artifact]
    counts: dict[str, Artifact] | None = None


def run(config: Config, inputs: Inputs, out: Workspace, _resources: Resources) -> dict:
    if config.fail:
        raise StepFailed("the sum was asked to fail")
    terms = [*inputs.numbers.values(), *(inputs.counts or {}).values()]
    total = config.scale * sum(int((term / "number.txt").read_text()) for term in terms)
    (out / "summary.md").write_text(f"total {total}\n")
    (out / "report.html").write_text(f"<p>{total}</p>")
    return {"total": total}
