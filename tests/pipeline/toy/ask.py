"""Ask the server a few questions, one after the other; answers are kept, so that a resumed step asks for the rest."""

import json
import os
import time
import urllib.request

from pipeline.artifact import Artifact
from pipeline.errors import StepFailed
from pipeline.stage import Resources, Workspace
from pipeline.strict import StrictModel

VERSION = 1


class Config(StrictModel):
    question: str
    num_answers: int = 1
    pause_seconds: float = 0.0
    """Before each answer."""
    fail: bool = False


class Inputs(StrictModel):
    model: Artifact
    before: Artifact | None = None


def run(config: Config, inputs: Inputs, out: Workspace, resources: Resources) -> dict:
    started = time.time()
    answers = out / "answers.jsonl"
    num_known = len(answers.read_text().splitlines()) if answers.exists() else 0
    for index in range(num_known, config.num_answers):
        out.progress(index, config.num_answers)
        time.sleep(config.pause_seconds)
        if config.fail:
            raise StepFailed(f"{config.question} was asked to fail")
        with answers.open("a") as file:
            file.write(json.dumps(_ask(f"{resources.server_url}/ask")) + "\n")
    rows = [json.loads(line) for line in answers.read_text().splitlines()]
    _keep(resources, inputs.model.fingerprint, out, answers.read_text())
    return {
        "model": rows[-1]["data"][0]["id"],
        "pid": rows[-1]["pid"],
        "num_asked": len(rows) - num_known,
        "started": started,
        "ended": time.time(),
        "others": sorted(path.name for path in out.path.parent.glob("*.partial")),
    }


def _ask(url: str) -> dict:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {os.environ['PIPELINE_SERVER_KEY']}"})
    with urllib.request.urlopen(request, timeout=600) as response:
        return json.load(response)


def _keep(resources: Resources, owner: str, out: Workspace, text: str) -> None:
    assert resources.store_dir
    folder = resources.store_dir / "answers" / owner
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{out.path.name.removesuffix('.partial')}.jsonl").write_text(text)
