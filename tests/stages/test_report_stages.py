"""The report on what the stages really write: two endpoints answer, a third one judges, everything is scored."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from pipeline.stage import Resources, Workspace
from stages import generate, judge, report, score
from stages._serving.endpoint import Endpoint
from stages.benchmarks import humaneval, mt_bench
from tests.stages.scripted_server import Script, serving
from tests.stages.synthetic_run import SyntheticRun

ASKED: dict[str, Any] = {
    "humaneval": humaneval.Config(name="humaneval", limit=3, num_samples=2, temperature=0.5),
    "mt_bench": mt_bench.Config(name="mt_bench", questions="demo"),
}
SCORERS: dict[str, Any] = {
    "humaneval": humaneval.Scorer(name="humaneval"),
    "mt_bench": mt_bench.Scorer(name="mt_bench"),
}


def _reply(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """`good` is rated higher than `bad`, wins in both orders, and is never cut off; the judge goes by the text."""
    texts = " ".join(message["content"] for message in body["messages"])
    if body["model"] != "judge":
        said = f"An answer of {body['model']}."
    elif "[[A]]" in texts:
        said = "[[A]]" if texts.index("of good") < texts.index("of bad") else "[[B]]"
    else:
        said = "Rating: [[8]]" if "of good" in texts else "Rating: [[3]]"
    reason = "length" if body["model"] == "bad" else "stop"
    choice = {"message": {"role": "assistant", "content": said}, "finish_reason": reason}
    usage = {"prompt_tokens": 9, "completion_tokens": 2}
    return 200, {"model": f"{body['model']}-dated", "choices": [choice], "usage": usage}


class Stages(SyntheticRun):
    """Runs stages and seals what they write."""

    def run(self, name: str, stage: Any, config: Any, **inputs: Any) -> Any:
        folder = Workspace(self.store.root / "work" / name)
        folder.path.mkdir(parents=True)
        metrics = stage.run(config, stage.Inputs(**inputs), folder, Resources(store_dir=self.store.root))
        files = {file.name: file.read_text() for file in folder.path.iterdir() if file.is_file()}
        names = [known for known, artifact in self.steps.items() if artifact in inputs.values()]
        return self.add(name, names, files, config.model_dump(mode="json"), **metrics)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = Stages(tmp_path_factory.mktemp("store"))
    with serving(Script("any", _reply)) as url:

        def endpoint(model: str) -> Endpoint:
            return Endpoint(url=f"{url}/v1", model=model)

        rating = judge.Config(endpoint=endpoint("judge"), prompts="demo", num_repeats=2)
        pairs = judge.Config(endpoint=endpoint("judge"), prompts="demo", mode="pairwise")
        for model in ("bad", "good"):
            for name, benchmark in ASKED.items():
                asked = generate.Config(benchmark=benchmark, endpoint=endpoint(model))
                answers = run.run(f"{model}/{name}/generate", generate, asked)
                judged = {}
                if name == "mt_bench":
                    judged = {"judgments": run.run(f"{model}/{name}/judge", judge, rating, answers=answers)}
                scored = score.Config(scorer=SCORERS[name])
                run.run(f"{model}/{name}/score", score, scored, answers=answers, **judged)
        ours, theirs = (run.steps[f"{model}/mt_bench/generate"] for model in ("good", "bad"))
        compared = run.run("good/pairs/judge", judge, pairs, answers=ours, opponent=theirs)
        run.run("good/pairs/score", score, score.Config(scorer=SCORERS["mt_bench"]), answers=ours, judgments=compared)
    out = Workspace(tmp_path_factory.mktemp("report"))
    config = report.Config(title="endpoints", models=("bad", "good"), baseline="bad")
    report.run(config, report.Inputs(steps=run.steps), out, Resources())
    return out.path


@pytest.fixture(scope="module")
def page(written: Path) -> str:
    """Its words, without what is embedded for the browser."""
    text = re.sub(r"<(script|style)\b.*?</\1>", "", (written / "report.html").read_text(), flags=re.S)
    return re.sub(r"\s+", " ", text)


def test_scores_intervals_and_counts_are_those_of_the_scorers(written: Path):
    record = json.loads((written / "results.json").read_text())
    (rated,) = [each for each in record["comparisons"] if each["metric"] == "rating"]
    assert (rated["difference"], rated["num_fixed"], rated["num_broken"]) == (5.0, 8, 0)
    assert rated["paired"]["p_value"] == pytest.approx(2 / 2**8)
    evaluation = next(each for each in record["evaluations"] if each["step"] == "bad/humaneval/score")
    assert evaluation["counts"]["truncated"] == 6
    summary = (written / "summary.md").read_text()
    assert re.search(r"\| humaneval +\| pass@1 +\| good +\| +3 \| +0\.000±0\.000 \| +\[0\.000,0\.56", summary)


def test_endpoints_judge_and_settings_are_named(page: str):
    assert re.search(r"good at http://127\.0\.0\.1:\d+/v1", page)
    assert re.search(r"<dt>judge</dt><dd>judge at http://", page)
    assert "<dt>answered as</dt><dd>judge-dated</dd>" in page
    assert "0.000 (bad), 0.000 (good)" in page  # the spread of a judge that repeats itself
    assert "<dt>isolation</dt>" in page


def test_win_rates_say_against_whom(page: str):
    row = re.search(r'<td data-label="against">bad</td>.*?</tr>', page)
    assert row
    cells = [re.sub("<[^>]+>", "", cell).strip() for cell in re.findall(r"<td.*?</td>", row[0])]
    assert cells[4:] == ["16", "0", "0", "0"]  # both turns of eight questions


def test_categories_of_both_turns_are_shown(page: str):
    assert 'class="radar"' in page
    assert "good: writing 8.00" in page
