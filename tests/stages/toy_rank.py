"""A process for the launch agent to start: `python -m tests.stages.toy_rank SPEC`; beside SPEC lies what to do.

roles.json: rank -> a line of Python. Every rank first leaves its process id and its place in ready-RANK.json.
"""

import json
import os
import sys
from pathlib import Path

PLACE = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS")

folder = Path(sys.argv[1]).parent
rank = os.environ["RANK"]
file = folder / f"ready-{rank}.json"
file.with_suffix(".new").write_text(json.dumps({"pid": os.getpid(), **{name: os.environ[name] for name in PLACE}}))
file.with_suffix(".new").replace(file)
print(f"rank {rank} says hello", flush=True)
exec(json.loads((folder / "roles.json").read_text())[rank])
