"""`fetch` from a hub of our own: sizes first, resumed, checked, and what is fetched is all that a run needs."""

import hashlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from pipeline import cli, downloads, plan
from pipeline.errors import UserError
from pipeline.fetch import work
from pipeline.fetch.listing import list_files
from pipeline.fetch.wanted import Wanted, wanted_by
from pipeline.preflight import check
from pipeline.store import Store
from stages import _hub, workflow
from stages._data import pinned
from stages.benchmarks import gsm8k, lm_eval
from tests.fake_hub import Hub, folder_files
from tests.no_network import without_network
from tests.stages.conftest import write_tiny_model

ROOT = Path(__file__).parents[1]
MODEL, DATA, MOVED = "a" * 40, "b" * 40, "c" * 40
SHARD = "model-00001-of-00003.safetensors"
RECIPE = f"""
name: tiny
seed: 0
model: {{source: {{kind: hub, name: me/tiny, revision: {MODEL}}}}}
init: {{adapter: {{method: nlora, rank: 2, residual: subtract}}}}
train: {{learning_rate: 1e-3, global_batch_size: 4, max_steps: 2, num_epochs: 1}}
serve: {{engine: transformers, dtype: float32, max_model_len: 256}}
evaluate_base: false
tracks:
  math:
    data: {{source: {{kind: hub, name: me/sums, revision: {DATA}}}}}
    decontaminate: {{}}
    tokenize:
      format: {{kind: prompt_response, prompt: question, response: answer}}
      template: {{kind: chat}}
      max_length: 64
    benchmarks:
      gsm8k: {{ask: {{name: gsm8k, limit: 2, max_tokens: 4}}}}
      gsm8k_lm_eval: {{ask: {{name: lm_eval, task: gsm8k, limit: 2, num_fewshot: 1, max_tokens: 4}}}}
resources: {{num_processes: 1, num_threads: 1}}
"""
LOCAL = {"source": {"kind": "local", "path": "/nowhere"}}
QUESTIONS = [{"question": f"{a} apples + 2 pears . how many ?", "answer": f"#### {a + 2}"} for a in range(8)]


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], dict[str, bytes]]:
    """(repository, commit) -> its files: a model in shards, JSON lines, and a data set in Parquet with its card."""
    folder = tmp_path_factory.mktemp("model")
    write_tiny_model(folder)
    rows = [{"question": f"{a} apples and {a} pears", "answer": f"{2 * a}"} for a in range(100)]
    return {
        ("models/me/tiny", MODEL): {**folder_files(folder), "pytorch_model.bin": b"x" * 5000, "README.md": b"# tiny\n"},
        ("datasets/me/sums", DATA): {"train.jsonl": "".join(json.dumps(row) + "\n" for row in rows).encode()},
        ("datasets/openai/gsm8k", gsm8k.SOURCE.hub_revision): _gsm8k(),
    }


@pytest.fixture
def hub(contents: dict[tuple[str, str], dict[str, bytes]]) -> Iterator[Hub]:
    hub = Hub()
    for (repository, commit), files in contents.items():
        hub.add(repository, dict(files), commit)
    server = hub.start()
    yield hub
    server.shutdown()
    server.server_close()


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    return tmp_path / "tiny.yaml"


def test_sizes_are_shown_first_and_nothing_is_written(hub: Hub, recipe: Path, tmp_path: Path):
    done = fetch(hub, recipe, tmp_path / "to", "--dry-run")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    size = sum(map(len, hub.repositories["datasets/me/sums"].commits[DATA].values()))
    assert [line.split() for line in lines if "me/sums" in line] == [
        ["data", "set", "me/sums", DATA[:12], "1", f"{size:,}", "0", "math/prepare_data"]
    ]
    assert "are to be fetched to" in lines[-1]
    assert not (tmp_path / "to").exists()


def test_all_that_the_recipe_reads_is_fetched_and_nothing_else(hub: Hub, recipe: Path, tmp_path: Path):
    to = fetched(hub, recipe, tmp_path)
    model = to / "hub" / "models--me--tiny" / "snapshots" / MODEL
    assert {"config.json", "tokenizer.json", "model.safetensors.index.json"} <= {file.name for file in model.iterdir()}
    assert not (model / "pytorch_model.bin").exists()
    index = json.loads((to / "fetched.json").read_text())
    for place, noted in index["files"].items():
        content = (to / place).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (noted["bytes"], noted["sha256"])
    assert index["commits"]["data set openai/gsm8k@main"] == gsm8k.SOURCE.hub_revision
    assert not list((to / ".partial").iterdir())


def test_what_is_fetched_is_what_the_hubs_own_library_reads(hub: Hub, recipe: Path, tmp_path: Path):
    to = fetched(hub, recipe, tmp_path)
    code = (
        "from huggingface_hub import snapshot_download as get;"
        f"get('me/tiny', revision='{MODEL}', allow_patterns=['*.safetensors', '*.json']);"
        "get('openai/gsm8k', repo_type='dataset')"
    )
    environment = {**os.environ, "HF_HUB_CACHE": str(to / "hub"), "HF_HUB_OFFLINE": "1"}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0


def test_a_connection_that_breaks_goes_on_where_it_broke(hub: Hub, recipe: Path, tmp_path: Path):
    hub.breaks = {SHARD: 2}
    fetched(hub, recipe, tmp_path)
    ranges = [ranged for _, path, ranged in hub.asked if path.startswith("/store") and SHARD in path]
    size = len(hub.repositories["models/me/tiny"].commits[MODEL][SHARD])
    assert ranges == ["", f"bytes={size // 2}-", f"bytes={size // 2 + (size - size // 2) // 2}-"]


def test_killed_it_resumes_and_a_rerun_fetches_nothing(hub: Hub, recipe: Path, tmp_path: Path):
    size = len(hub.repositories["models/me/tiny"].commits[MODEL][SHARD])
    hub.breaks = {SHARD: 1000}  # half of what is left at a time, then a pause
    pauses = {size - (size >> times) for times in range(1, 10)}
    running = subprocess.Popen(command(recipe, tmp_path / "to"), cwd=ROOT, env=environment(hub))
    wait_for(lambda: pauses & partial_sizes(tmp_path / "to"))
    running.send_signal(signal.SIGKILL)
    running.wait()
    [have] = pauses & partial_sizes(tmp_path / "to")
    hub.breaks, hub.asked = {}, []
    fetched(hub, recipe, tmp_path)
    assert [ranged for _, path, ranged in hub.asked if "/store" in path and SHARD in path] == [f"bytes={have}-"]
    hub.asked.clear()
    assert "0 are to be fetched" in fetch(hub, recipe, tmp_path / "to").stdout
    assert not [path for _, path, _ in hub.asked if "/resolve/" in path or "/store/" in path]


def test_a_wrong_byte_is_never_kept(hub: Hub, recipe: Path, tmp_path: Path):
    hub.wrong = {"train.jsonl"}
    done = fetch(hub, recipe, tmp_path / "to")
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert f"/datasets/me/sums/resolve/{DATA}/train.jsonl: found sha256" in line and "nothing of it is kept" in line
    assert not list((tmp_path / "to").rglob("train.jsonl"))
    assert len(list((tmp_path / "to").rglob("*.safetensors"))) == 3  # the others are there
    hub.wrong = set()
    fetched(hub, recipe, tmp_path)


def test_flipped_bits_are_found_and_mended(hub: Hub, recipe: Path, tmp_path: Path):
    to = fetched(hub, recipe, tmp_path)
    assert fetch(hub, recipe, to, "--verify").returncode == 0
    [file] = to.rglob(SHARD)
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    found = fetch(hub, recipe, to, "--verify")
    assert found.returncode == 1
    assert f"{file}: found sha256" in found.stdout
    mended = fetch(hub, recipe, to)
    assert mended.returncode == 0 and f"{file}: found sha256" in mended.stderr
    assert file.read_bytes() == content


def test_two_at_once_share_the_work(hub: Hub, recipe: Path, tmp_path: Path):
    two = [subprocess.Popen(command(recipe, tmp_path / "to"), cwd=ROOT, env=environment(hub)) for _ in range(2)]
    assert [each.wait(timeout=120) for each in two] == [0, 0]
    stored = [path for _, path, _ in hub.asked if path.startswith("/store")]
    assert len(stored) == len(set(stored)) > 0


def test_a_branch_that_moved_is_fetched_anew_and_recorded(hub: Hub, recipe: Path, tmp_path: Path):
    to = fetched(hub, recipe, tmp_path)
    hub.add("datasets/openai/gsm8k", _gsm8k(), MOVED)
    fetched(hub, recipe, tmp_path)
    repository = to / "hub" / "datasets--openai--gsm8k"
    assert (repository / "refs" / "main").read_text() == MOVED
    assert {each.name for each in (repository / "snapshots").iterdir()} == {gsm8k.SOURCE.hub_revision, MOVED}


@pytest.mark.parametrize(("status", "advice"), [(401, "set HF_TOKEN"), (403, "accept its conditions")])
def test_a_gated_repository_needs_the_token_which_is_not_written(
    status: int, advice: str, hub: Hub, recipe: Path, tmp_path: Path
):
    hub.gated = {"models/me/tiny": status}
    refused = fetch(hub, recipe, tmp_path / "to")
    assert refused.returncode == 1
    [line] = refused.stderr.splitlines()
    assert line.startswith(f"model me/tiny@{MODEL[:12]}: its server answered {status}; ") and advice in line
    done = fetch(hub, recipe, tmp_path / "to", HF_TOKEN=hub.token)
    assert done.returncode == 0, done.stderr
    assert not [file for file in (tmp_path / "to").rglob("*") if file.is_file() and b"the-token" in file.read_bytes()]
    assert not hub.leaks and [path for _, path, _ in hub.asked if path.startswith("/store")]


def test_what_is_not_there_and_no_network_are_one_line_each(hub: Hub, recipe: Path, tmp_path: Path):
    del hub.repositories["datasets/me/sums"]
    unknown = fetch(hub, recipe, tmp_path / "to")
    assert unknown.returncode == 2
    assert unknown.stderr.splitlines() == [
        f"data set me/sums@{DATA[:12]}: {hub.url}/datasets/me/sums answered 404; check name and revision"
    ]
    nobody = fetch(hub, recipe, tmp_path / "to", HF_ENDPOINT="http://127.0.0.1:9")
    assert nobody.returncode == 2
    assert len(nobody.stderr.splitlines()) == 4 and nobody.stderr.count("cannot be reached") == 4
    assert "HF_HUB_OFFLINE" in fetch(hub, recipe, tmp_path / "to", HF_HUB_OFFLINE="1").stderr


def test_a_full_disk_is_one_line(hub: Hub, recipe: Path, tmp_path: Path):
    limited = ["bash", "-c", 'ulimit -f 20; trap "" XFSZ; exec "$@"', "-", *command(recipe, tmp_path / "to")]
    done = subprocess.run(limited, cwd=ROOT, env=environment(hub), capture_output=True, text=True)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1 and "File too large" in done.stderr


def test_every_download_is_looked_for_by_preflight(
    hub: Hub, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    to = fetched(hub, recipe, tmp_path)
    wanted = [each.download for each in wanted_by(plan.load(recipe, []))]
    assert len(wanted) == 4
    monkeypatch.setenv(downloads.VARIABLE, str(to))
    planned, store = plan.load(recipe, []), Store(tmp_path / "store")
    pending = [step for step in planned.steps if step.stage != "train"]  # which asks DeepSpeed, for seconds
    for file in json.loads((to / "fetched.json").read_text())["files"]:
        kept = (to / file).rename(to / "away")
        with pytest.raises(UserError, match=re.escape(f"fetch RECIPE --to {to}")) as found:
            check(planned, pending, store)
        assert all(Path(file).name in line for line in found.value.problems), file
        kept.rename(to / file)
    check(planned, pending, store)


def test_a_fetched_folder_that_is_none_is_one_line(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(downloads.VARIABLE, str(tmp_path / "none"))
    planned = plan.load(recipe, [])
    with pytest.raises(UserError, match=f"^PIPELINE_FETCHED: found no folder at {tmp_path / 'none'}, expected"):
        check(planned, planned.steps, Store(tmp_path / "store"))


def test_the_fetched_folder_is_in_no_fingerprint(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(downloads.VARIABLE, raising=False)
    before = [step.fingerprint for step in plan.load(recipe, []).steps]
    monkeypatch.setenv(downloads.VARIABLE, str(tmp_path))
    assert [step.fingerprint for step in plan.load(recipe, []).steps] == before


@pytest.mark.parametrize("layout", ["named by its commit", "as in the hub's cache"])
def test_a_folder_laid_out_by_hand(layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    files = downloads.HubFiles(kind="dataset", name="me/sums", revision=DATA)
    places = {
        "named by its commit": tmp_path / "datasets" / "me" / "sums" / DATA,
        "as in the hub's cache": tmp_path / "hub" / files.folder_name / "snapshots" / DATA,
    }
    monkeypatch.setenv(downloads.VARIABLE, str(tmp_path))
    assert "is not at" in (_hub.absent(files) or "")
    folder = places[layout]
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_text("{}\n")
    assert _hub.absent(files) is None
    assert _hub.find(files).folder == folder
    (folder / "train.jsonl").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert "train.jsonl (a Git LFS pointer: git lfs pull)" in (_hub.absent(files) or "")


@pytest.mark.parametrize("layout", ["git clone", "packed git clone", "hf download"])
def test_a_plain_folder_has_to_tell_its_commit(layout: str, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "datasets" / "me" / "sums"
    commit = downloaded(hub, folder) if layout == "hf download" else cloned(folder, packed=layout != "git clone")
    monkeypatch.setenv(downloads.VARIABLE, str(tmp_path))
    files = downloads.HubFiles(kind="dataset", name="me/sums", revision=commit)
    assert _hub.absent(files) is None
    assert _hub.find(files).folder == folder
    other = files.model_copy(update={"revision": MOVED})
    assert f"which has commit {commit[:12]}" in (_hub.absent(other) or "")
    assert _hub.absent(files.model_copy(update={"revision": "main"})) is None
    for hidden in folder.glob(".*"):
        shutil.rmtree(hidden)
    assert "does not tell its commit" in (_hub.absent(files) or "")


def test_a_file_of_the_web_is_fetched_by_its_content(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    content = b"judge prompts\n" * 500
    hub.web = {"prompts.jsonl": content}
    hub.breaks = {"prompts.jsonl": 1}
    file = pinned.Pinned(f"{hub.url}/web/prompts.jsonl", hashlib.sha256(content).hexdigest())
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    work.fetch(tmp_path, list_files([Wanted(file.download(), ["judge"])]))
    monkeypatch.setenv(downloads.VARIABLE, str(tmp_path))
    assert pinned.problem(file) is None
    assert pinned.read(file) == content
    file.path.unlink()
    assert f"fetch RECIPE --to {tmp_path}" in (pinned.problem(file) or "")


def test_benchmarks_and_judges_name_what_they_read():
    named = {
        "math": "EleutherAI/hendrycks_math",
        "mbpp": "google-research-datasets/mbpp",
        "mt_bench": "question.jsonl gpt-4.jsonl judge_prompts.jsonl",
        "humaneval": "",
    }
    for name, expected in named.items():
        benchmark = {"ask": {"name": name}, **({"judge": {}} if name == "mt_bench" else {})}
        text = json.dumps({"name": "x", "models": {"one": LOCAL}, "benchmarks": {name: benchmark}})
        steps = workflow.steps(workflow.Recipe.model_validate_json(text))
        found = [str(each.download) for each in wanted_by(plan.arrange("x", steps))]
        assert len(found) == len(expected.split()), name
        assert all(part in line for part, line in zip(expected.split(), found, strict=True))


def test_lm_evals_addresses_lead_into_the_fetched_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from stages.benchmarks._lm_eval_data import local_data

    commit = tmp_path / "hub" / "datasets--EleutherAI--arithmetic" / "snapshots" / DATA
    (commit / "data").mkdir(parents=True)
    (commit / "data" / "sums.jsonl").write_text('{"context": "1 + 1", "completion": "2"}\n')
    (commit.parents[1] / "refs").mkdir()
    (commit.parents[1] / "refs" / "main").write_text(DATA)
    monkeypatch.setenv(downloads.VARIABLE, str(tmp_path))
    with local_data({}, None, tmp_path / "cache"):
        import datasets

        files = {"validation": "hf://datasets/EleutherAI/arithmetic/data/sums.jsonl"}
        for path, more in (("json", {"data_files": files}), ("EleutherAI/arithmetic", {"revision": "main"})):
            (rows,) = datasets.load_dataset(path=path, name=None, **more).values()
            assert rows[0]["completion"] == "2"


def test_what_nltk_has_to_bring_is_said_before_it_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(downloads.VARIABLE, str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("NLTK_DATA", raising=False)
    problems = lm_eval.problems(lm_eval.Config(name="lm_eval", task="ifeval"))
    assert any(f"python -m nltk.downloader -d {tmp_path / 'nltk_data'} punkt_tab" in line for line in problems)
    (tmp_path / "nltk_data" / "tokenizers" / "punkt_tab").mkdir(parents=True)
    [line] = lm_eval.problems(lm_eval.Config(name="lm_eval", task="ifeval"))
    assert "google/IFEval" in line


def test_scoring_alone_looks_for_what_lm_eval_reads_again(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(downloads.VARIABLE, str(tmp_path))
    planned = plan.load(recipe, [])
    scores = [step for step in planned.steps if step.stage == "score"]
    [line] = workflow.problems(planned.variants[0].recipe, scores)
    assert line.startswith("lm_eval: gsm8k: data set openai/gsm8k@main is not at ")


@pytest.mark.slow
def test_a_run_without_network_from_the_fetched_folder(hub: Hub, recipe: Path, tmp_path: Path):
    to = fetched(hub, recipe, tmp_path)
    words = [sys.executable, "-m", "pipeline", "run", str(recipe), "--store", str(tmp_path / "store")]
    words += ["--set", "tracks.math.decontaminate=null"]  # which loads lm-eval once more
    done = subprocess.run(
        without_network(words), cwd=ROOT, env=environment(hub, PIPELINE_FETCHED=str(to)), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path.name for path in (tmp_path / "store").iterdir()} >= {"report", "score", "train"}


def fetched(hub: Hub, recipe: Path, tmp_path: Path) -> Path:
    """The folder, after a fetch that worked."""
    done = fetch(hub, recipe, tmp_path / "to")
    assert done.returncode == 0, done.stdout + done.stderr
    return tmp_path / "to"


def fetch(hub: Hub, recipe: Path, to: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The command, in this process: starting one takes longer than the work."""
    arguments, output, errors = command(recipe, to, *words)[3:], io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(output), redirect_stderr(errors):
        for name in [name for name in os.environ if name.startswith("HF_")]:
            patch.delenv(name)
        for name, value in {"HF_ENDPOINT": hub.url, **variables}.items():
            patch.setenv(name, value)
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", "HF_HUB_OFFLINE" in variables)
        code = cli.main(arguments)
    return subprocess.CompletedProcess(arguments, code, output.getvalue(), errors.getvalue())


def command(recipe: Path, to: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "pipeline", "fetch", str(recipe), "--to", str(to), *words]


def environment(hub: Hub, **variables: str) -> dict[str, str]:
    """Without the hub settings of whoever runs the tests."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return {**kept, "HF_ENDPOINT": hub.url, **variables}


def cloned(folder: Path, packed: bool) -> str:
    """A git repository with one file; its commit."""
    git = ["git", "-C", str(folder), "-c", "user.name=me", "-c", "user.email=me@example.com"]
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_text("{}\n")
    steps = [["init", "-q"], ["add", "."], ["commit", "-qm", "data"], *([["pack-refs", "--all"]] if packed else [])]
    for words in steps:
        subprocess.run([*git, *words], check=True)
    return subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()


def downloaded(hub: Hub, folder: Path) -> str:
    """What the hub's own command writes into a folder; its commit."""
    code = (
        "import sys; from huggingface_hub import snapshot_download as get;"
        "get('me/sums', repo_type='dataset', revision=sys.argv[1], local_dir=sys.argv[2])"
    )
    subprocess.run([sys.executable, "-c", code, DATA, str(folder)], env=environment(hub), check=True)
    return DATA


def partial_sizes(root: Path) -> set[int]:
    return {file.stat().st_size for file in (root / ".partial").glob("*") if file.exists()}


def wait_for(condition: Any, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def _gsm8k() -> dict[str, bytes]:
    import pyarrow
    import pyarrow.parquet

    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(QUESTIONS), buffer)
    splits = "".join(f"  - split: {name}\n    path: main/{name}-*\n" for name in ("train", "test"))
    files = {f"main/{name}-00000-of-00001.parquet": buffer.getvalue() for name in ("train", "test")}
    return {"README.md": f"---\nconfigs:\n- config_name: main\n  data_files:\n{splits}---\n".encode(), **files}
