"""MBPP's two forms, and verdicts on right, wrong and hostile answers."""

import ast
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml

from pipeline.errors import UserError
from stages._serving.requests import Request
from stages.benchmarks import mbpp
from stages.benchmarks._code import extract_program
from tests.shared_data import shared_data
from tests.stages.benchmarks.answering import answered

SCORER = mbpp.Scorer(name="mbpp", timeout_seconds=5.0)
EXIT = "import os; os._exit(0)"
CODE = "import math\r\ndef twice(x):\r\n  return 2 * x\r\n"


def task(number: int) -> dict:
    tests = ["assert twice(1) == 2", "assert twice(0) == 0", "assert twice(-3) == -6"]
    return {
        "task_id": number,
        "text": f"Double it ({number}).",
        "code": CODE,
        "test_setup_code": "",
        "test_list": tests,
    }


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    path = tmp_path / "mbpp.jsonl"
    path.write_text("".join(json.dumps(task(number)) + "\n" for number in SPLITS["all"]))
    return path


def score(config: mbpp.Config, texts: list[str], tmp_path: Path, scorer: mbpp.Scorer = SCORER) -> list[str]:
    requests = mbpp.requests(config, None, tmp_path)[: len(texts)]
    _, items = mbpp.score(scorer, config, answered(requests, texts), tmp_path)
    return [item["verdicts"][0] for item in items]


SPLITS = {
    "test": [11, 12, 13, 510],
    "validation": [511, 600],
    "train": [601, 974],
    "prompt": [1, 2, 3, 4],
    "all": [1, 2, 3, 4, 11, 12, 13, 510, 511, 600, 601, 974],
}


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("style", ["zero_shot", "few_shot"])
def test_splits_by_task_id(style: str, split: str, problems: Path, tmp_path: Path):
    config = mbpp.Config.model_validate({"name": "mbpp", "style": style, "split": split, "problems": problems})
    shown = (2, 3, 4) if style == "few_shot" else ()
    expected = [f"MBPP/{number}" for number in SPLITS[split] if number not in shown]
    assert [request.id for request in mbpp.requests(config, None, tmp_path)] == expected


def test_the_test_split_is_the_default(problems: Path, tmp_path: Path):
    requests = mbpp.requests(mbpp.Config(name="mbpp", problems=problems), None, tmp_path)
    assert [request.id for request in requests] == ["MBPP/11", "MBPP/12", "MBPP/13", "MBPP/510"]


def test_few_shot_shows_three_worked_tasks(problems: Path, tmp_path: Path):
    config = mbpp.Config(name="mbpp", style="few_shot", problems=problems)
    request = mbpp.requests(config, None, tmp_path)[0]
    assert request.raw and request.sampling.stop == ("[DONE]",)
    assert request.turns[0].count("[DONE]") == 3 and request.turns[0].endswith("[BEGIN]\n")
    problems.write_text(json.dumps(task(11)))
    lacking = f"mbpp: problems: {problems} lacks the worked examples, task_id [2, 3, 4]"
    with pytest.raises(UserError) as error:
        mbpp.requests(config, None, tmp_path)
    assert str(error.value) == lacking
    assert mbpp.problems(config) == [lacking]


def test_few_shot_prompts_are_lm_evals_to_the_letter(tmp_path: Path):
    """lm-eval joins the three examples, each with its target, and the question by two line ends.

    Its task cannot be loaded without the hub (importing its utils.py asks for the metric), so the parts are read from
    its files.
    """
    folder = Path(importlib.util.find_spec("lm_eval").submodule_search_locations[0], "tasks", "mbpp")  # type: ignore
    written = yaml.load((folder / "mbpp.yaml").read_text().replace("!function", ""), yaml.SafeLoader)
    function = next(
        node
        for node in ast.parse((folder / "utils.py").read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name == "list_fewshot_samples"
    )
    namespace: dict[str, Any] = {}
    exec(ast.unparse(function), namespace)
    asked, target = (
        jinja2.Template(written[name], keep_trailing_newline=True) for name in ("doc_to_text", "doc_to_target")
    )
    examples = [asked.render(doc) + target.render(doc) + "\n\n" for doc in namespace["list_fewshot_samples"]()]
    config = mbpp.Config(name="mbpp", style="few_shot", split="all", problems=shared_data("mbpp/mbpp.jsonl"))
    requests = mbpp.requests(config, None, tmp_path)
    tasks = {f"MBPP/{row['task_id']}": row for row in map(json.loads, config.problems.read_text().splitlines())}  # type: ignore
    assert len(requests) == 971 and written["num_fewshot"] == 3 and written["target_delimiter"] == ""
    for request in requests:
        assert request.turns[0] == "".join(examples) + asked.render(tasks[request.id])
    assert requests[0].sampling.stop == tuple(written["generation_kwargs"]["until"])


def test_zero_shot_shows_task_and_tests(problems: Path, tmp_path: Path):
    request = mbpp.requests(mbpp.Config(name="mbpp", problems=problems), None, tmp_path)[0]
    assert not request.raw and request.sampling.stop == ()
    assert "Double it (11)." in request.turns[0] and "\n".join(task(11)["test_list"]) in request.turns[0]


@pytest.mark.parametrize("style", ["zero_shot", "few_shot"])
def test_verdicts(style: str, problems: Path, tmp_path: Path):
    config = mbpp.Config.model_validate({"name": "mbpp", "style": style, "problems": problems})
    wrong, hostile, endless = (f"def twice(x):\n  {body}" for body in ("return x", EXIT, "while True: pass"))
    if style == "zero_shot":
        texts = [f"Sure:\n```python\n{code}\n```\nDone." for code in (CODE, wrong)] + ["I do not know."]
        assert score(config, texts, tmp_path) == ["passed", "failed", "no code"]
    else:
        assert score(config, [CODE, wrong, hostile, endless], tmp_path) == ["passed", "failed", "failed", "timeout"]


def test_verbatim_runs_the_answer_as_it_stands(problems: Path, tmp_path: Path):
    config = mbpp.Config(name="mbpp", style="few_shot", problems=problems)
    texts = [f"{CODE}\nassert twice(1) == 3\n", f"```\n{CODE}\n```"]
    assert score(config, texts, tmp_path) == ["passed", "passed"]
    verbatim = mbpp.Scorer(name="mbpp", extraction="verbatim")
    assert score(config, texts, tmp_path, verbatim) == ["failed", "failed"]


def test_set_up_code_runs_between_code_and_tests(tmp_path: Path):
    """As in task 367, whose set-up code builds a tree of the class that the answer defines."""
    row = task(11) | {"test_setup_code": "root = Node(7)", "test_list": ["assert twice(root.value) == 14"]}
    (tmp_path / "mbpp.jsonl").write_text(json.dumps(row))
    config = mbpp.Config(name="mbpp", problems=tmp_path / "mbpp.jsonl")
    node = "class Node:\n    def __init__(self, value):\n        self.value = value\n"
    assert score(config, [f"```\n{node}\n{CODE}\nprint(twice(None))\n```"], tmp_path) == ["passed"]


def test_missing_data_is_named_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    missing = mbpp.Config(name="mbpp", problems=tmp_path / "none.jsonl")
    assert mbpp.problems(missing) == [
        f"mbpp: problems: {tmp_path / 'none.jsonl'} does not exist; relative paths start at the recipe"
    ]
    (tmp_path / "few.jsonl").write_text(json.dumps(task(3)))
    assert mbpp.problems(mbpp.Config(name="mbpp", problems=tmp_path / "few.jsonl")) == [
        f"mbpp: problems: {tmp_path / 'few.jsonl'} has no task with a task_id from 11 to 510"
    ]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    (line,) = mbpp.problems(mbpp.Config(name="mbpp"))
    assert "is not in the hub cache" in line and line.endswith("a folder with mbpp/mbpp.jsonl as `mirror`")


def test_only_where_the_mirror_has_the_file_and_the_recipe_names_none(problems: Path, tmp_path: Path):
    config = mbpp.Config(name="mbpp")
    assert mbpp.on_mirror(config, tmp_path) == config
    (tmp_path / "mbpp").mkdir()
    mirrored = problems.rename(tmp_path / "mbpp" / "mbpp.jsonl")
    assert mbpp.on_mirror(config, tmp_path) == mbpp.Config(name="mbpp", problems=mirrored)
    own = mbpp.Config(name="mbpp", problems=tmp_path / "own.jsonl")
    assert mbpp.on_mirror(own, tmp_path) == own


@pytest.fixture(scope="module")
def real_requests(tmp_path_factory: pytest.TempPathFactory) -> list[Request]:
    config = mbpp.on_mirror(mbpp.Config(name="mbpp", split="all"), shared_data("mbpp").parent)
    return mbpp.requests(config, None, tmp_path_factory.getbasetemp())


def test_the_mirror_holds_974_tasks(real_requests: list[Request]):
    assert [request.id for request in real_requests] == [f"MBPP/{number}" for number in range(1, 975)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:invalid escape sequence")
@pytest.mark.parametrize(
    "reply", ["{code}", "Sure:\n```python\n{code}\n```\nDone.", "Here it is:\n\n{code}\n\nThat's it."]
)
def test_every_canonical_solution_passes(reply: str, real_requests: list[Request]):
    failing = []
    for request in real_requests:
        answer = reply.format(code=request.doc["reference"])
        program = extract_program(answer, mbpp.wanted_names(request))
        try:
            exec(mbpp.check_program(request, program or ""), {})
        except BaseException as error:  # noqa: BLE001 - whatever it is, it fails
            failing.append((request.id, repr(error)))
    assert failing == []


@pytest.mark.slow
def test_every_canonical_solution_of_the_test_split_passes_in_the_sandbox(tmp_path: Path):
    config = mbpp.on_mirror(mbpp.Config(name="mbpp"), shared_data("mbpp").parent)
    requests = mbpp.requests(config, None, tmp_path)
    answers = answered(requests, [f"```\n{each.doc['reference']}\n```" for each in requests])
    scores, items = mbpp.score(mbpp.Scorer(name="mbpp", timeout_seconds=20.0), config, answers, tmp_path)
    assert [item["id"] for item in items if item["verdicts"] != ["passed"]] == []
    assert (scores.metrics["pass@1"].value, scores.metrics["pass@1"].n) == (1.0, 500)
    assert (scores.counts["timeout"], scores.counts["unparsable"]) == (0, 0)
    shown = {name: scores.details[name] for name in ("source", "style", "split", "extraction")}
    assert shown == {"source": "mbpp.jsonl", "style": "zero_shot", "split": "test", "extraction": "program"}


ASK = """
import json
from pathlib import Path
from stages.benchmarks import mbpp
config = mbpp.Config(name="mbpp", style="few_shot", split="all")
assert mbpp.problems(config) == [], mbpp.problems(config)
print(json.dumps([each.model_dump(mode="json") for each in mbpp.requests(config, None, Path())]))
"""


@pytest.mark.slow
def test_the_hubs_files_are_asked_as_the_mirrors(tmp_path: Path):
    """The pinned data set as its card lays it out, read offline from the hub's cache."""
    _lay_out(tmp_path / "hub", list(map(json.loads, shared_data("mbpp/mbpp.jsonl").read_text().splitlines())))
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    asked = subprocess.run(
        [sys.executable, "-c", ASK], cwd=Path(__file__).parents[3], env=environment, capture_output=True, text=True
    )
    assert asked.returncode == 0, asked.stderr
    config = mbpp.on_mirror(mbpp.Config(name="mbpp", style="few_shot", split="all"), shared_data())
    expected = [each.model_dump(mode="json") for each in mbpp.requests(config, None, tmp_path)]
    assert json.loads(asked.stdout) == expected


def _lay_out(cache: Path, rows: list[dict[str, Any]]) -> None:
    import pyarrow
    import pyarrow.parquet

    repository = cache / f"datasets--{mbpp.HUB_NAME.replace('/', '--')}"
    folder = repository / "snapshots" / mbpp.HUB_REVISION / "full"
    folder.mkdir(parents=True)
    schema = pyarrow.Table.from_pylist(rows).schema  # of all: in some split a list is always empty
    files: dict[str, Any] = {}
    card = ["---", "configs:", "- config_name: full", "  data_files:"]
    for split in mbpp.HUB_SPLITS:
        part = [row for row in rows if row["task_id"] in mbpp.TASK_IDS[split]]
        name = f"{split}-00000-of-00001.parquet"
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(part, schema), folder / name)
        files[f"full/{name}"] = {}
        card += [f"  - split: {split}", f"    path: full/{split}-*"]
    (folder.parent / "README.md").write_text("\n".join([*card, "---", ""]))
    (repository / "trees").mkdir()
    tree = {"files": {**files, "README.md": {}}}
    (repository / "trees" / f"{mbpp.HUB_REVISION}.json").write_text(json.dumps(tree))
