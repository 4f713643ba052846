"""What the init stage leaves for the others beside an adapter. Standard library only: full fine-tuning has no more."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stages.adapters.base import MethodConfig

ADAPTER_FILE = "adapter.json"
"""The adapter's section of the recipe: rank, scale and method of what lies beside it."""
REPORT_FILE = "init_report.json"


def write_method(method: MethodConfig, out_dir: Path) -> None:
    """Write adapter.json."""
    (out_dir / ADAPTER_FILE).write_text(json.dumps(method.model_dump(mode="json"), indent=1) + "\n")


def write_report(report: Mapping[str, Any], out_dir: Path) -> None:
    """Write init_report.json."""
    (out_dir / REPORT_FILE).write_text(json.dumps(report, indent=1) + "\n")
