"""What Slurm writes into a job's log when it ends the job: the only word of it that stays."""

import re
from pathlib import Path

from pipeline.tail import last_lines

TIME_LIMIT = "it reached its time limit"
CANCELLED = "it was cancelled"
MEMORY = "it used more memory than it had asked for (memory in the profile)"

_DUE_TO = {
    None: CANCELLED,
    "TIME LIMIT": TIME_LIMIT,
    "NODE FAILURE": "its node failed",
    "PREEMPTION": "it was preempted",
    "JOB REQUEUE": "it was requeued by hand",
}
_ENDED = re.compile(r"slurmstepd\S*: error: \*\*\* (?:JOB|STEP) \S+ ON \S+ CANCELLED AT \S+(?: DUE TO (.+?))? \*\*\*")
_MEMORY = re.compile(r"slurmstepd\S*: error: .*(oom[-_ ]kill|exceeded (job )?memory limit)", re.IGNORECASE)
"""Of task/cgroup, and of JobAcctGatherParams=OverMemoryKill, which then cancels."""
_STARTED = re.compile(r"\d{4}-\d\d-\d\dT[\d:+]+  .+  on \S+(, start \d+)?$")
"""The first line of each start of `pipeline.slurm.batch`."""
_NUM_LINES = 8
"""In which it is looked for: the work says little once it is told to stop."""


def last_words(log: Path) -> str:
    """Why Slurm ended the job the last time, if it did; else nothing."""
    ended = ""
    for line in reversed(last_lines(log, _NUM_LINES)):
        if _STARTED.match(line):
            return ended
        if _MEMORY.match(line):
            return MEMORY
        if not ended and (found := _ENDED.match(line)):
            ended = _DUE_TO.get(found[1], f"Slurm ended it: {found[1]}")
    return ended
