"""Why a job waits, in words: Slurm's reasons as https://slurm.schedmd.com/job_reason_codes.html has them."""

import time

from pipeline.slurm.queue import Entry

_WORDS = {
    "None": "Slurm has not looked at it yet",
    "Priority": "others are before it in the queue",
    "Resources": "waits for free nodes",
    "Dependency": "waits for other jobs",
    "DependencyNeverSatisfied": "can never start, since what it waits for failed",
    "BeginTime": "may start again",
    "JobHeldAdmin": "held by an administrator, who has to release it",
    "JobHeldUser": "held by its user; release it: scontrol release {job}",
    "JobHoldMaxRequeue": "held, since it was requeued too often; release it: scontrol release {job}",
    "JobArrayTaskLimit": "as many tasks of its array run already as the profile allows (max_array_tasks)",
    "ReqNodeNotAvail": "nodes that it needs are down, drained or reserved",
    "NodeDown": "a node that it needs is down",
    "BadConstraints": "no node has what the profile asks for (constraint)",
    "PartitionDown": "its partition is down",
    "PartitionInactive": "its partition is switched off",
    "PartitionNodeLimit": "asks for more nodes than its partition allows, or they are down",
    "PartitionTimeLimit": "asks for more time than its partition allows",
    "Reservation": "waits for its reservation to begin",
    "InvalidAccount": "its account is not valid",
    "InvalidQOS": "its QOS is not valid",
    "Licenses": "waits for a license",
    "Cleaning": "is being cleaned up after its last start",
}
_NODES_DOWN = "Nodes required for job are DOWN"
_HELD = "launch failed requeued held"


def why(entry: Entry) -> str:
    """One phrase for a job that waits; Slurm's own word with it where that says more."""
    word, _, more = entry.reason.replace("_", " ").partition(",")
    job = f"{entry.job_id}_{entry.task}" if entry.task else str(entry.job_id)
    if word == "BeginTime" and entry.eligible:
        return f"may start again at {time.strftime('%H:%M:%S', time.localtime(entry.eligible))}"
    if word == _NODES_DOWN:
        return "nodes that it needs are down, drained or reserved for jobs of a higher priority"
    if word == _HELD:
        return f"held, since a node could not start it; release it: scontrol release {job}"
    if word.startswith("QOS"):
        return f"a limit of its QOS is reached ({entry.reason})"
    if word.startswith(("Assoc", "Max")):
        return f"a limit of its account is reached ({entry.reason})"
    if word in _WORDS:
        return _WORDS[word].format(job=job) + (f" ({more.strip()})" if more else "")
    return f"Slurm says {entry.reason}"
