"""Count stored answers: a score that needs no server."""

from pipeline.artifact import Artifact
from pipeline.stage import Resources, Workspace
from pipeline.strict import StrictModel

VERSION = 1


class Config(StrictModel):
    pass


class Inputs(StrictModel):
    answers: Artifact


def run(_config: Config, inputs: Inputs, out: Workspace, _resources: Resources) -> dict:
    num_answers = len((inputs.answers / "answers.jsonl").read_text().splitlines())
    (out / "number.txt").write_text(str(num_answers))
    return {"num_answers": num_answers}
