"""A process that starts programs: it is small and has loaded what most of them import, so each costs milliseconds.

Standard input: one JSON list [plan, options] and then one [program, limits] a line. Standard output: one line of JSON
each.
"""

import gc
import importlib
import json
import os
import signal
import sys

from stages._sandbox.inside import kernel, seccomp, supervisor
from stages._sandbox.inside.plan import Limits, Plan

PRELOADED = "bisect collections copy datetime functools heapq itertools math operator re string typing".split()
"""Not `random`, whose state programs would share."""


def main() -> None:
    """Serve until the input ends."""
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    orders = os.fdopen(os.dup(0), "rb")
    plan = Plan(**json.loads(orders.readline()))
    for name in PRELOADED:
        importlib.import_module(name)
    leave_no_trace()
    if not plan.namespaces:
        kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
        kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
    if plan.seccomp and plan.namespaces:
        seccomp.program(None)
    gc.freeze()
    for line in orders:
        code, limits = json.loads(line)
        try:
            reply = supervisor.run(plan, code, Limits(**limits))
        except OSError as error:
            reply = {"status": "broken", "detail": str(error)}
        os.write(1, json.dumps(reply).encode() + b"\n")


def leave_no_trace() -> None:
    """Programs cannot import this package or find it among the modules."""
    for name in [name for name in sys.modules if name.partition(".")[0] in ("stages", "pipeline")]:
        del sys.modules[name]
