"""The report on sealed steps with made-up numbers: its tables against values computed by hand."""

import json
import re
import subprocess
import sys

import pytest
from pydantic import ValidationError

from pipeline.errors import UserError
from pipeline.stage import Resources, Workspace
from stages import report
from tests.stages.synthetic_run import SyntheticRun, add_training, items

HARMFUL = "</script><script>window.harmed = 1</script><img src=x onerror='window.harmed = 1'>&\u2028"


@pytest.fixture
def synthetic(tmp_path):
    return SyntheticRun(tmp_path / "store")


def write(synthetic, folder, models=("base", "math"), **settings):
    """The folder with the report's three files, and the metrics of the step."""
    folder.mkdir()
    config = report.Config(title="a run", models=models, **settings)
    metrics = report.run(config, report.Inputs(steps=synthetic.steps), Workspace(folder), Resources())
    return folder, metrics


def table_rows(markdown):
    """The cells of each table row, without header and rule."""
    rows = [re.split(r"\s*\|\s*", line.strip("| ")) for line in markdown.splitlines() if line.startswith("|")]
    return [row for row in rows if not set("".join(row)) <= set(":-") and row[0] != "benchmark"]


def test_numbers_are_those_computed_by_hand(synthetic, tmp_path):
    synthetic.add_score("base", "arithmetic", items([0, 0, 1, 1]))
    synthetic.add_score("math", "arithmetic", items([1, 1, 1, 0]))
    folder, metrics = write(synthetic, tmp_path / "out")
    summary = (folder / "summary.md").read_text()
    # stderr of 2 of 4: sqrt(1/3)/2 = 0.289; of 3 of 4: 0.25; of the differences 1 1 0 -1: sqrt(11/12)/2 = 0.479
    # Wilson at 2 of 4, z^2 = 3.8415: centre 0.5, half 1.96 / 7.8415 * sqrt(1 + 0.9604) = 0.35
    # one added to each change: (3 - 2) / 6, variance (5 / 6 - 1 / 36) / 6, half 1.96 * 0.3664 = 0.718
    base, tuned, difference = table_rows(summary)
    assert base == ["arithmetic", "exact_match", "base", "4", "0.500±0.289", "[0.150,0.850]"]
    assert tuned == ["arithmetic", "exact_match", "math", "4", "0.750±0.250", "[0.301,0.954]"]
    assert difference == ["arithmetic", "math", "+0.250±0.479", "[−0.551,0.885]", "1", "2/1"]
    assert "2 items better (item-0, item-1), 1 worse (item-3), 1 the same" in summary
    assert metrics["math/arithmetic/exact_match"]["difference"] == 0.25
    record = json.loads((folder / "results.json").read_text())
    assert record["comparisons"][0]["num_fixed"] == 2
    assert record["evaluations"][0]["scores"][0]["n"] == 4
    step = "base/arithmetic/score"
    assert record["steps"][step]["fingerprint"] == synthetic.steps[step].fingerprint


def test_items_are_paired_by_id_not_by_position(synthetic, tmp_path):
    synthetic.add_score("base", "arithmetic", items([0, 0, 1, 1]))
    synthetic.add_score("math", "arithmetic", items([1, 1, 1, 0])[::-1])
    _, metrics = write(synthetic, tmp_path / "out")
    assert metrics["math/arithmetic/exact_match"]["stderr"] == pytest.approx((11 / 12) ** 0.5 / 2)


def test_whole_run_with_several_tracks(synthetic, tmp_path):
    for track in ("math", "code"):
        add_training(synthetic, track)
    for model in ("base", "math", "code"):
        synthetic.add_score(model, "arithmetic", items([0, 1, 0]), ["prepare_model"])
    folder, metrics = write(synthetic, tmp_path / "out", models=("base", "math", "code"))
    assert len(metrics) == 2
    rows = table_rows((folder / "summary.md").read_text())
    assert [row[2] for row in rows[:3]] == ["base", "math", "code"]
    page = (folder / "report.html").read_text()
    assert page.count("<svg") == 1 + 2 + 2 + 2 + 2  # plan; wide and narrow training, start, merge; two interval strips
    assert "code/train" in page


def test_other_metrics_and_those_that_are_no_mean(synthetic, tmp_path):
    metrics = {
        "strict": {"value": 0.5, "stderr": 0.5, "n": 2},
        "flexible": {"value": 1.0, "stderr": 0.0, "n": 2},
        "matthews": {"value": 0.3, "stderr": None, "n": 2},
    }
    rows = [{**item, "flexible": 1.0} for item in items([0, 1])]
    for model in ("base", "math"):
        synthetic.add_score(model, "cola", rows, metric="strict", metrics=metrics)
    folder, _ = write(synthetic, tmp_path / "out")
    compared = {each["metric"]: each for each in json.loads((folder / "results.json").read_text())["comparisons"]}
    assert compared["flexible"]["paired"]["n"] == 2
    assert compared["matthews"]["paired"] is None
    assert "not their mean" in compared["matthews"]["reason"]


def test_lower_is_better_turns_better_and_worse_round(synthetic, tmp_path):
    synthetic.add_score("base", "perplexity", items([3.0, 2.0]), higher_is_better=False)
    synthetic.add_score("math", "perplexity", items([1.0, 1.5]), higher_is_better=False)
    folder, _ = write(synthetic, tmp_path / "out")
    comparison = json.loads((folder / "results.json").read_text())["comparisons"][0]
    assert (comparison["num_fixed"], comparison["num_broken"]) == (2, 0)


def test_items_without_a_score_are_counted(synthetic, tmp_path):
    synthetic.add_score("base", "mt_bench", items([4.0, None, 6.0]))
    synthetic.add_score("math", "mt_bench", items([5.0, 5.0, 7.0]))
    folder, metrics = write(synthetic, tmp_path / "out")
    assert metrics["math/mt_bench/exact_match"]["n"] == 2
    assert "1 item without a score for both left out" in (folder / "summary.md").read_text()


def test_counts_and_notes_are_shown(synthetic, tmp_path):
    add_training(synthetic)
    for model in ("base", "math"):
        said = {"counts": {"truncated": 7}, "meaningful": False, "note": "the judge judges itself"}
        synthetic.add_score(model, "mt_bench", items([5.0, 6.0]), **said)
    folder, _ = write(synthetic, tmp_path / "out")
    summary = (folder / "summary.md").read_text()
    assert ["mt_bench", "base", "2", "7 truncated"] in table_rows(summary)
    assert "- mt_bench (not meaningful): the judge judges itself" in summary
    assert "135 million parameters" in summary
    assert "- math: the training data was not searched for evaluation items" in summary
    assert "- mt_bench, math: 7 of its answers cut off at the length limit (2 items); a longer limit" in summary


def test_what_decontamination_took_out_is_shown(synthetic, tmp_path):
    add_training(synthetic)
    train = {"num_rows": 7473, "num_removed": 2, "removed": {"gsm8k": 2}}
    synthetic.add("math/decontaminate", ["math/prepare_data"], num_too_short={"gsm8k": 1}, train=train)
    for model in ("base", "math"):
        synthetic.add_score(model, "gsm8k", items([0, 1]))
    folder, _ = write(synthetic, tmp_path / "out")
    assert (
        "- math: 2 of 7,473 training rows were taken out because they repeat evaluation items (gsm8k 2); reworded ones "
        "are not found, and 1 item of too few words were not looked for."
    ) in (folder / "summary.md").read_text()


def test_a_merge_that_was_verified_in_part_is_said(synthetic, tmp_path):
    add_training(synthetic)
    layers = '{"layers": [{"module": "q_proj", "relative_error": 0.0, "update_lost": 0.0}]}'
    synthetic.add("other/merge", ["math/train"], {"merge_report.json": layers}, verified="tensors")
    synthetic.add_score("base", "arithmetic", items([0, 1]))
    folder, _ = write(synthetic, tmp_path / "out", models=("base",))
    summary = (folder / "summary.md").read_text()
    assert (
        "- other/merge: every tensor of the merged model was checked, but what it says was compared neither" in summary
    )
    assert "- math/merge" not in summary


def test_baseline_alone_has_no_differences(synthetic, tmp_path):
    synthetic.add_score("base", "arithmetic", items([0, 1]))
    folder, metrics = write(synthetic, tmp_path / "out", models=("base",))
    assert metrics == {}
    rows = table_rows((folder / "summary.md").read_text())
    assert ["arithmetic", "exact_match", "base", "2", "0.500±0.500", "[0.095,0.905]"] in rows


def test_nothing_scored_is_said(synthetic, tmp_path):
    add_training(synthetic)
    folder, _ = write(synthetic, tmp_path / "out")
    assert "No benchmark was scored." in (folder / "summary.md").read_text()


def test_missing_items_are_refused_with_their_ids(synthetic, tmp_path):
    for benchmark in ("arithmetic", "humaneval"):
        synthetic.add_score("base", benchmark, items([0, 1, 1]))
    synthetic.add_score("math", "arithmetic", items([0, 1]))
    synthetic.add_score("math", "humaneval", items([0, 1, 0, 1]))
    with pytest.raises(UserError) as raised:
        write(synthetic, tmp_path / "out")
    assert raised.value.problems == (
        "math/arithmetic/score: 1 item of base/arithmetic/score missing (item-2); score the same items",
        "base/humaneval/score: 1 item of math/humaneval/score missing (item-3); score the same items",
    )


def test_a_benchmark_without_baseline_stands_alone(synthetic, tmp_path):
    synthetic.add_score("base", "arithmetic", items([0, 1]))
    synthetic.add_score("math", "arithmetic", items([1, 1]))
    synthetic.add_score("math", "humaneval", items([0, 1]))
    folder, metrics = write(synthetic, tmp_path / "out")
    assert list(metrics) == ["math/arithmetic/exact_match"]
    summary = (folder / "summary.md").read_text()
    assert ["humaneval", "exact_match", "math", "2", "0.500±0.500", "[0.095,0.905]"] in table_rows(summary)
    assert "Without a comparison" in (folder / "report.html").read_text()


def test_scores_of_a_part_of_the_items_are_kept_out_of_the_summary(synthetic, tmp_path):
    metrics = {"rating": {"value": 5.0, "stderr": 1.0, "n": 2}, "rating_math": {"value": 6.0, "stderr": None, "n": 1}}
    for model in ("base", "math"):
        synthetic.add_score(model, "mt_bench", items([4.0, 6.0]), metric="rating", metrics=metrics)
    folder, _ = write(synthetic, tmp_path / "out")
    assert "rating_math" not in (folder / "summary.md").read_text()
    assert "<th>part <small>rating</small></th>" in (folder / "report.html").read_text()
    assert "rating_math" in (folder / "results.json").read_text()


def test_a_benchmark_on_which_nothing_could_be_scored(synthetic, tmp_path):
    for model in ("base", "math"):
        synthetic.add_score(model, "mt_bench", items([None, None]), metric="rating", metrics={})
    folder, metrics = write(synthetic, tmp_path / "out")
    assert metrics == {}
    assert "- mt_bench, base: no rating, since no item could be scored." in (folder / "summary.md").read_text()


def test_repeated_ids_are_refused(synthetic, tmp_path):
    for model in ("base", "math"):
        synthetic.add_score(model, "arithmetic", items([0, 1]) + items([1]))
    with pytest.raises(UserError, match="an item id occurs twice"):
        write(synthetic, tmp_path / "out")


def test_other_settings_are_refused_and_named(synthetic, tmp_path):
    for model, limit in (("base", 10), ("math", 20)):
        synthetic.add(f"{model}/arithmetic/generate", config={"benchmark": {"name": "lm_eval", "limit": limit}})
        synthetic.add_score(model, "arithmetic", items([0, 1]), [f"{model}/arithmetic/generate"])
    expected = "math/arithmetic/generate: benchmark.limit is 20, expected 10 as in base/arithmetic/generate"
    with pytest.raises(UserError, match=f"^{re.escape(expected)}$"):
        write(synthetic, tmp_path / "out")


def test_judging_only_one_of_two_is_refused(synthetic, tmp_path):
    synthetic.add("math/mt_bench/judge")
    synthetic.add_score("base", "mt_bench", items([5.0, 6.0]))
    synthetic.add_score("math", "mt_bench", items([5.0, 6.0]), ["math/mt_bench/judge"])
    with pytest.raises(UserError, match="math/mt_bench/judge: only one of the two models has this step"):
        write(synthetic, tmp_path / "out")


def test_score_of_an_unknown_model_is_refused(synthetic, tmp_path):
    synthetic.add_score("code", "arithmetic", items([0, 1]))
    with pytest.raises(UserError, match="'code/arithmetic/score', expected <model>/<benchmark>/score"):
        write(synthetic, tmp_path / "out")


def test_damaged_files_are_named(synthetic, tmp_path):
    score = synthetic.add_score("base", "arithmetic", items([0, 1]))
    (score / "items.jsonl").write_text('{"id": 1}\nnonsense\n')
    with pytest.raises(UserError, match=r"items\.jsonl:2: not JSON"):
        write(synthetic, tmp_path / "out")


def test_equal_inputs_give_equal_bytes(synthetic, tmp_path):
    add_training(synthetic)
    for model in ("base", "math"):
        synthetic.add_score(model, "mt_bench", items([1.0, 2.5, 4.0] * 8))
    first, _ = write(synthetic, tmp_path / "first")
    synthetic.steps = dict(reversed(synthetic.steps.items()))
    second, _ = write(synthetic, tmp_path / "second")
    for name in ("report.html", "summary.md", "results.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_absent_provenance_is_left_out(synthetic, tmp_path):
    synthetic.add("prepare_model", provenance={})
    folder, _ = write(synthetic, tmp_path / "out")
    assert "base model" not in (folder / "report.html").read_text()


def test_a_models_words_never_become_markup(synthetic, tmp_path):
    for model in ("base", "math"):
        synthetic.add_score(model, "arithmetic", items([0, 1], answer=HARMFUL, extracted=HARMFUL), note=HARMFUL)
    folder, _ = write(synthetic, tmp_path / "out", description=HARMFUL)
    page = (folder / "report.html").read_text()
    assert "<script>window" not in page
    assert "<img" not in page
    assert page.count("</script>") == 2


def test_models_must_be_named_once_and_hold_the_baseline():
    with pytest.raises(ValidationError, match="expected each name once"):
        report.Config(title="x", models=("base", "base"))
    with pytest.raises(ValidationError, match="got 'other', expected one of"):
        report.Config(title="x", models=("base",), baseline="other")


def test_importing_the_stage_is_light():
    heavy = {"numpy", "scipy", "matplotlib", "jinja2"}
    code = f"import sys, stages.report; print({heavy} & sys.modules.keys() or None)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "None"
