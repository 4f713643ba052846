"""The pinned data sets, laid out in the hub's cache: offline, the requests are those of a mirror folder."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.strict import StrictModel
from stages.benchmarks import benchmark_module, gsm8k, hendrycks_math
from stages.benchmarks._asked import slug
from stages.benchmarks._zero_shot import Source
from tests.shared_data import shared_data

ROOT = Path(__file__).parents[3]
MATH_FOLDERS = {"counting_probability": "counting_and_probability"}
"""Where a subject's folder on the hub is not its name."""
ASK = """
import json, sys
from pathlib import Path
from stages.benchmarks import gsm8k, hendrycks_math
module = {"gsm8k": gsm8k, "math": hendrycks_math}[sys.argv[1]]
config = module.Config(name=sys.argv[1])
assert module.problems(config) == [], module.problems(config)
print(json.dumps([each.model_dump(mode="json") for each in module.requests(config, None, Path())]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "source"),
    [
        (gsm8k.Config(name="gsm8k"), gsm8k.SOURCE),
        (hendrycks_math.Config(name="math"), hendrycks_math.SOURCE),
    ],
    ids=["gsm8k", "math"],
)
def test_the_hubs_files_are_asked_as_the_mirrors(config: StrictModel, source: Source, tmp_path: Path):
    module = benchmark_module(config)
    lines = shared_data(f"{source.benchmark}/test.jsonl").read_text().splitlines()
    _lay_out(tmp_path / "hub", source, [json.loads(line) for line in lines])
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    asked = subprocess.run(
        [sys.executable, "-c", ASK, source.benchmark], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert asked.returncode == 0, asked.stderr
    on_mirror = module.on_mirror(config, shared_data())
    expected = [each.model_dump(mode="json") for each in module.requests(on_mirror, None, tmp_path)]
    assert len(expected) == module.NUM_PROBLEMS
    assert json.loads(asked.stdout) == expected


def _lay_out(cache: Path, source: Source, rows: list[dict[str, Any]]) -> None:
    """The data set as its card describes it: CONFIG/test-00000-of-00001.parquet for each config."""
    import pyarrow
    import pyarrow.parquet

    repository = cache / f"datasets--{source.hub_name.replace('/', '--')}"
    snapshot = repository / "snapshots" / source.hub_revision
    files, card = [], ["---", "configs:"]
    for name in source.hub_configs:
        subject = [row for row in rows if name in ("main", _folder(row))]
        file = f"{name}/test-00000-of-00001.parquet"
        (snapshot / name).mkdir(parents=True)
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(subject), snapshot / file)
        card += [f"- config_name: {name}", "  data_files:", "  - split: test", f"    path: {name}/test-*"]
        files.append(file)
    (snapshot / "README.md").write_text("\n".join([*card, "---", ""]))
    (repository / "trees").mkdir()
    tree: dict[str, Any] = {"files": {name: {} for name in [*files, "README.md"]}}
    (repository / "trees" / f"{source.hub_revision}.json").write_text(json.dumps(tree))


def _folder(row: dict[str, Any]) -> str:
    subject = slug(str(row.get("type")))
    return MATH_FOLDERS.get(subject, subject)
