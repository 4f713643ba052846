"""Slurm's commands for submitting: sbatch, scancel, and what the cluster allows.

Every call gets an environment in which nothing speaks of another job or overrules the profile: sbatch takes variables
SBATCH_* before what stands in a script, https://slurm.schedmd.com/sbatch.html.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.errors import UserError
from pipeline.slurm.profile import seconds
from pipeline.slurm.submission import Job

PATIENCE_SECONDS = 120
_OPENING = re.compile(r"^(s\w+: )?((error|fatal): )?(allocation failure: |Batch job submission failed: )?")
_OUT_OF_ORDER = ("down", "drain", "fail", "unk", "power", "reboot")
"""https://slurm.schedmd.com/sinfo.html, node state codes; `*` is one that does not answer."""
_KEPT = {"SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_CLUSTERS"}
DEFAULT_MAX_ARRAY_SIZE = 1001
"""https://slurm.schedmd.com/slurm.conf.html, MaxArraySize."""


class Refused(UserError):
    """Slurm's own words, in one line."""


def is_here() -> bool:
    """Whether jobs can be submitted from this machine."""
    return shutil.which("sbatch") is not None


def require() -> None:
    """Raises UserError where Slurm's commands are missing."""
    if not is_here():
        raise UserError(
            "submit: found no sbatch on PATH, expected Slurm's commands; run this on a login node of the cluster, or "
            "look at the scripts with --dry-run"
        )


def max_array_size() -> int:
    """So many tasks an array may have; Slurm's default where there is none to ask."""
    try:
        settings = _ask(["scontrol", "show", "config"])
    except Refused:
        return DEFAULT_MAX_ARRAY_SIZE
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", settings, re.MULTILINE)
    return max(1, int(found[1])) if found else DEFAULT_MAX_ARRAY_SIZE


def check(script: Path) -> None:
    """Would Slurm accept it? Raises Refused with why not. Whatever nodes are down for now may come back: no reason."""
    try:
        _ask(["sbatch", "--test-only", str(script)])
    except Refused as refused:
        if "node configuration is not available" in str(refused) and _are_nodes_down():
            return
        raise


def partitions() -> dict[str, int]:
    """Seconds that a job of each partition may take, 0 for no limit; that of the default one also under the name ""."""
    limits: dict[str, int] = {}
    for line in _ask(["sinfo", "--noheader", "--format=%P %l"]).splitlines():
        name, _, limit = line.strip().rpartition(" ")
        limits[name.removesuffix("*")] = 0 if limit == "infinite" else seconds(limit)
        if name.endswith("*"):
            limits[""] = limits[name.removesuffix("*")]
    return limits


def command(job: Job, script: Path, ids: Mapping[str, int | str]) -> list[str]:
    """The call that submits a job; `ids` are those of the jobs before it, by name."""
    conditions = []
    some = (f"{ids[name]}_{number}" for name, numbers in job.after_tasks.items() for number in numbers)
    if wanted := [*(ids[name] for name in job.after), *some]:
        conditions.append("afterok:" + ":".join(map(str, wanted)))
    if job.after_corresponding:
        conditions.append("aftercorr:" + ":".join(str(ids[name]) for name in job.after_corresponding))
    waiting = [f"--dependency={','.join(conditions)}", "--kill-on-invalid-dep=yes"] if conditions else []
    return ["sbatch", "--parsable", *waiting, str(script)]


def submit(words: Sequence[str]) -> int:
    """Its number. Raises Refused."""
    return int(_ask(words).strip().partition(";")[0])


def cancel(ids: Sequence[int]) -> None:
    """All of these. Raises Refused."""
    if ids:
        _ask(["scancel", *map(str, ids)])


def _are_nodes_down() -> bool:
    states = _ask(["sinfo", "--noheader", "--format=%T"]).split()
    return any(state.startswith(_OUT_OF_ORDER) or state.endswith("*") for state in states)


def _ask(words: Sequence[str]) -> str:
    environment = {
        name: value
        for name, value in os.environ.items()
        if name in _KEPT or not name.startswith(("SLURM_", "SLURMD_", "SBATCH_"))
    }
    try:
        done = subprocess.run(
            words,
            check=False,
            env=environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            start_new_session=True,  # Ctrl-C is ours: what it says of a job that it submitted has to be read
        )
    except subprocess.TimeoutExpired:
        raise Refused(f"{words[0]}: no answer within {PATIENCE_SECONDS} s") from None
    except OSError as error:
        raise Refused(f"{words[0]}: {error.strerror}") from None
    if done.returncode != 0:
        raise Refused(_reason(done.stderr) or f"{words[0]}: exit code {done.returncode}")
    return done.stdout


def _reason(text: str) -> str:
    """The last thing it said, without its own name: earlier lines say the same in other words."""
    lines = [_OPENING.sub("", line).strip() for line in text.splitlines()]
    told = [line for line in lines if line and not line.startswith("Try ")]
    return told[-1] if told else ""
