"""A recipe on the test cluster, through the command line that a user has, in a folder of its own."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from pipeline.slurm import submission
from pipeline.slurm.submission import Event, Submission
from pipeline.store import Store
from tests.slurm.cluster import ROOT, Cluster

Done = subprocess.CompletedProcess[str]
DEFAULTS: dict[str, Any] = {
    "command": [sys.executable],
    "cpus_per_task": 1,
    "memory": "50M",
    "time": 20,
    "signal_seconds": 60,
}


class Case:
    """Its names have blanks and quotes, as people's have."""

    def __init__(self, cluster: Cluster, root: Path, name: str, stages: str = "tests.pipeline.toy") -> None:
        self.cluster = cluster
        self.name = name
        self.folder = root / f'{name}\'s "folder"'
        self.folder.mkdir()
        self.store = Store(self.folder / "the $store")
        self.recipe = self.folder / f"{name}.yaml"
        self.profile = self.folder / "a cluster.yaml"
        self._environment = {**cluster.environment(), "PIPELINE_STAGES": stages}
        self.describe()

    def write(self, text: str) -> "Case":
        """The recipe."""
        self.recipe.write_text(text)
        return self

    def describe(
        self, kinds: dict[str, Any] | None = None, top: dict[str, Any] | None = None, **default: Any
    ) -> "Case":
        """The cluster's profile: fields of the top, of all jobs, and of the kinds of jobs."""
        profile = {**(top or {}), "default": {**DEFAULTS, **default}, "kinds": kinds or {}}
        self.profile.write_text(yaml.safe_dump(profile))
        return self

    def pipeline(self, command: str, *words: str) -> Done:
        """Run a command on this recipe and store."""
        line = [sys.executable, "-m", "pipeline", command, str(self.recipe), *words, "--store", str(self.store.root)]
        return subprocess.run(line, cwd=ROOT, env=self._environment, capture_output=True, text=True, timeout=120)

    def submit(self, *words: str) -> Done:
        """Hand it to the cluster, whatever comes of it."""
        return self.pipeline("submit", "--cluster", str(self.profile), *words)

    def submitted(self, *words: str) -> "Case":
        """Hand it to the cluster."""
        done = self.submit(*words)
        assert done.returncode == 0, done.stderr + done.stdout
        return self

    def status(self) -> str:
        """What `status` prints."""
        done = self.pipeline("status")
        assert done.returncode == 0, done.stderr
        return done.stdout

    def last(self) -> Submission:
        """The record of the newest submission."""
        return list(submission.all_of(self.store))[-1]

    def job(self, name: str, task: int | None = None) -> str:
        """Slurm's number of a job or one of its tasks, as its commands take them."""
        number = self.last().find(name).job_id
        assert number is not None
        return str(number) if task is None else f"{number}_{task}"

    def events(self, name: str, task: int = 0) -> list[Event]:
        """What a task said of itself."""
        return submission.events(self.store, self.last().id, name, task)

    def whats(self, name: str, task: int = 0) -> list[str]:
        """The same in a word each."""
        return [event.what for event in self.events(name, task)]

    def log(self, name: str, task: int = 0) -> str:
        """What a task wrote."""
        return self.cluster.log(submission.log_file(self.store, self.last().id, name, task))

    def all_logs(self) -> str:
        """What all tasks of the newest submission wrote, for failures."""
        files = sorted(submission.folder(self.store, self.last().id).glob("*.log"))
        return "\n".join(f"{file.name}:\n{file.read_text(errors='replace')}" for file in files)

    def states(self) -> set[str]:
        """Slurm's states of all jobs of the newest submission."""
        ids = ",".join(str(job.job_id) for job in self.last().jobs)
        return set(self.cluster.ask("squeue", "--noheader", "--states=all", f"--jobs={ids}", "--format=%T").split())

    def wait(self, seconds: float = 60.0) -> "Case":
        """Until all jobs of the newest submission have ended."""
        alive = {"PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "SUSPENDED"}
        try:
            self.cluster.wait(lambda: not self.states() & alive, f"{self.recipe.name} ends", seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.all_logs()}") from None
        return self

    def is_done(self) -> bool:
        """Whether a further submission finds nothing to do."""
        done = self.submit()
        return done.returncode == 0 and done.stdout.startswith("nothing to do")
