"""The bash script of a job: what it asks of Slurm, how its work is entered, and how signals reach it.

What sbatch reads of a script's head: https://slurm.schedmd.com/sbatch.html; what it makes of quotes there was tried.
"""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from pipeline import scratch
from pipeline.downloads import VARIABLE
from pipeline.slurm import submission
from pipeline.slurm.jobs import slug
from pipeline.slurm.profile import Options, Profile
from pipeline.slurm.submission import Job, Submission
from pipeline.store import Store

PROJECT = Path(__file__).parents[2]
"""Where `python -m pipeline` finds itself; on the nodes too."""

_BODY = r"""
readonly STARTING=140 # of a process that SIGUSR2 killed, since it did not listen yet

# A line for the log, one for `status`, and the exit code for wrong input.
refuse() {
    local text=${1//\\/\\\\} now
    text=${text//\"/\\\"} now=$(date -u +%Y-%m-%dT%H:%M:%S+00:00)
    printf '%s\n' "$1" >&2
    printf '{"at": "%s", "what": "failed", "node": "%s", "restart": %d, "exit_code": 2, "reason": "%s"}\n' \
        "$now" "${SLURMD_NODENAME:-$HOSTNAME}" "${SLURM_RESTART_COUNT:-0}" "$text" >>"$events"
    exit 2
}

# Signals are handed on to the work, which runs beside this shell; what comes before it has begun is kept.
child=""
signal=""
hand_on() {
    signal=$1
    [ -z "$child" ] || kill -s "$signal" "$child" 2>/dev/null
}
trap 'hand_on USR2' USR2
trap 'hand_on TERM' TERM

{{environment}}{{setup}}{{scratch}}cd -- "$project" || {{no_project}}
"${python[@]}" -c {{probe}} || {{no_python}}

code=$STARTING
if [ -z "$signal" ]; then
    "${python[@]}" -m pipeline.slurm.batch "$store" "$submission" "$job" "$task" &
    child=$!
    [ -z "$signal" ] || hand_on "$signal"
    while true; do # `wait` ends early when a signal comes
        signal=""
        wait "$child"
        code=$?
        [ -n "$signal" ] || break
    done
elif [ "$signal" = TERM ]; then
    code=143
fi

# 75: everything is saved, and the work is to go on later; so does work that was stopped before it could say so.
if [ "$code" -eq 75 ] || { [ "$code" -eq "$STARTING" ] && [ "${SLURM_RESTART_COUNT:-0}" -lt 10 ]; }; then
    code=75
    trap '' TERM USR2
    # Of an array, this task alone. One that Slurm ends already is left to it: a cancelled one would come back to life.
    id=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_}${SLURM_ARRAY_TASK_ID:-$SLURM_JOB_ID}
    [ "$(squeue --noheader --jobs="$id" --format=%T)" = COMPLETING ] || scontrol requeue "$id" ||
        refuse 'Slurm does not requeue this job, for the reason in its log; everything is saved: submit again'
fi
exit "$code"
"""


@dataclass(frozen=True)
class Batch:
    """What all scripts of one submission share."""

    submission: Submission
    store: Store
    profile: Profile
    recipe_name: str


def script_file(batch: Batch, job: Job) -> Path:
    """Where its script is kept."""
    return submission.folder(batch.store, batch.submission.id) / f"{job.name}.sh"


def render(batch: Batch, job: Job) -> str:
    """The whole script."""
    options = batch.profile.options(job.kind)
    head = ["#!/usr/bin/env bash", *(f"#SBATCH {_directive(option)}" for option in sbatch_options(batch, job))]
    steps = ", ".join(piece.name for task in job.tasks for piece in task)
    head += ["", _comment(f"{batch.recipe_name}: {steps}"), "# Written by `python -m pipeline submit`."]
    head += ["# shellcheck disable=SC2016 # values in single quotes are meant literally"]
    return "\n".join([*head, "", *_variables(batch, job, options)]) + _body(batch, job, options)


def sbatch_options(batch: Batch, job: Job) -> list[str]:
    """--name=value, as Slurm gets them from the script; what a job waits for is told on the command line."""
    options = batch.profile.options(job.kind)
    limit = f"%{batch.profile.max_array_tasks}" if batch.profile.max_array_tasks else ""
    log = submission.log_file(batch.store, batch.submission.id, job.name, 0)
    given = {
        "job-name": f"{slug(batch.recipe_name)}.{job.name}",
        "array": f"0-{len(job.tasks) - 1}{limit}" if job.is_array else None,
        "account": options.account,
        "partition": options.partition,
        "qos": options.qos,
        "reservation": options.reservation,
        "constraint": options.constraint,
        "nodes": options.nodes,
        "ntasks-per-node": 1,
        "cpus-per-task": options.cpus_per_task,
        "gpus-per-node": options.gpus_per_node or None,
        "mem": options.memory,
        "time": options.time,
        "signal": f"B:USR2@{options.signal_seconds}",
        "open-mode": "append",
        "output": str(log.parent).replace("%", "%%") + f"/{job.name}-{'%a' if job.is_array else '0'}.log",
    }
    return [*(f"--{name}={value}" for name, value in given.items() if value is not None), "--requeue", *options.options]


def _directive(option: str) -> str:
    """As sbatch reads it: only in double quotes does a backslash keep what follows, blanks and `#` included."""
    if re.fullmatch(r"[\w@%+=:,./-]+", option):
        return option
    return '"' + option.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _comment(text: str) -> str:
    printable = "".join(character if character.isprintable() else "?" for character in text)
    return f"# {printable if len(printable) <= 500 else printable[:500] + ' ...'}"


def _variables(batch: Batch, job: Job, options: Options) -> list[str]:
    task = '"$SLURM_ARRAY_TASK_ID"' if job.is_array else "0"
    folder = submission.folder(batch.store, batch.submission.id)
    return [
        f"store={shlex.quote(str(batch.store.root))}",
        f"submission={batch.submission.id}",
        f"job={job.name}",
        f"task={task}",
        f'events={shlex.quote(str(folder))}/"$job-$task.jsonl"',
        f"project={shlex.quote(str(PROJECT))}",
        f"python=({shlex.join(options.command)})",
    ]


def _body(batch: Batch, job: Job, options: Options) -> str:
    profile = f"{batch.submission.cluster}: {job.kind}"
    command = shlex.join(options.command)
    values = {
        "environment": _environment(batch.profile, options),
        "scratch": _scratch(batch.profile),
        "setup": _setup(options, f"{profile}: setup: a line of it failed"),
        "probe": shlex.quote("import pydantic, yaml"),
        "no_project": _refuse(f"{PROJECT}: found no such folder on this node; it must be on a shared file system"),
        "no_python": _refuse(
            f"{profile}: command: {command} does not start a Python with the pipeline's packages on this node; "
            "name one that does, or load it in setup"
        ),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: values[found[1]], _BODY)


def _environment(profile: Profile, options: Options) -> str:
    fetched = {VARIABLE: str(profile.fetched)} if profile.fetched else {}
    lines = [f"export {name}={shlex.quote(value)}" for name, value in {**fetched, **options.environment}.items()]
    return "".join(f"{line}\n" for line in [*lines, *([""] if lines else [])])


def _scratch(profile: Profile) -> str:
    """Of its characters only the names of variables mean something to bash. After the set-up, which may set them."""
    if profile.scratch is None:
        return ""
    quoted = re.sub(r"""["\\`]|\$(?!\w|\{\w+\})""", lambda found: "\\" + found[0], profile.scratch)
    return f'export {scratch.VARIABLE}="{quoted}"\n'


def _setup(options: Options, failed: str) -> str:
    """The lines as they are; one that fails ends the job, unless a file that it reads goes on."""
    if not options.setup:
        return ""
    begin = f"trap '[ \"${{#BASH_SOURCE[@]}}\" -gt 1 ] || {_inside_quotes(_refuse(failed))}' ERR"
    return "".join(f"{line}\n" for line in [begin, *options.setup, "trap - ERR", ""])


def _inside_quotes(command: str) -> str:
    return command.replace("'", "'\\''")


def _refuse(reason: str) -> str:
    return f"refuse {shlex.quote(reason)}"
