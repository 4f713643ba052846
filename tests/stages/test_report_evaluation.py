"""The report on evaluations: models and endpoints side by side, several samples, categories, win rates."""

import json
import math
import re
from statistics import fmean

import pytest

from pipeline.errors import UserError
from pipeline.stage import Resources, Workspace
from stages import report
from stages._report.categories import CENTRE, RADIUS, categories
from stages._report.compare import read_results
from stages._report.items import MOST_ITEMS, browser_data
from stages._report.parts import parts, split
from stages._report.read import read_steps
from stages._report.scores import headlines, leaderboard, matrices
from stages._statistics import bootstrap_interval, compare_paired
from stages.benchmarks.base import mean_metric
from tests.stages.synthetic_run import (
    CATEGORIES,
    SyntheticRun,
    add_answers,
    add_endpoint_answers,
    add_mt_bench,
    add_pairs,
    items,
)

MODELS = ("small", "other", "hosted")


@pytest.fixture
def synthetic(tmp_path):
    """Two models that are evaluated as they are."""
    run = SyntheticRun(tmp_path / "store")
    hub = {"kind": "hub", "name": "some/model", "revision": "0123456789" * 4}
    run.add("small/prepare_model", config={"source": hub}, num_parameters=135_000_000)
    run.add(
        "other/prepare_model", config={"source": {"kind": "local", "path": "a/folder"}}, num_parameters=7_000_000_000
    )
    return run


def answers(run, model, benchmark, **settings):
    if model == "hosted":
        return add_endpoint_answers(run, model, benchmark, **settings)
    return add_answers(run, model, benchmark, f"{model}/prepare_model", **settings)


def results_of(run, models=MODELS, baseline="small"):
    return read_results(read_steps(run.steps), models, baseline)


def write(run, folder, models=MODELS, baseline="small"):
    """The page as text, without what is embedded for the browser, and the summary."""
    folder.mkdir()
    config = report.Config(title="a run", models=models, baseline=baseline)
    report.run(config, report.Inputs(steps=run.steps), Workspace(folder), Resources())
    page = (folder / "report.html").read_text()
    shown = re.sub(r"<(script|style)\b.*?</\1>", "", page, flags=re.S)
    return shown, (folder / "summary.md").read_text()


def test_models_and_endpoints_are_named_and_compared_without_any_training(synthetic, tmp_path):
    for model, scores in zip(MODELS, ([0, 0, 1, 0], [1, 0, 1, 0], [1, 1, 1, 1]), strict=True):
        synthetic.add_score(model, "gsm8k", items(scores), [answers(synthetic, model, "gsm8k", limit=4)])
    page, summary = write(synthetic, tmp_path / "out")
    assert "hosted-2026 at https://api.example/v1" in page
    assert "some/model at 0123456789" in page
    assert "a/folder" in page
    assert "vllm, bfloat16, context 2,048" in page
    assert "c0ffeec0ffee" in page
    assert not re.search(r'id="(training|weights)"', page)
    assert "gsm8k, hosted against small: 3 items better (item-0, item-1, item-3), 0 worse, 1 the same" in summary
    assert "small has 135 million parameters" in summary
    assert "other has" not in summary
    assert "<dt>models</dt><dd>135 million parameters, 7 billion parameters</dd>" in page


def test_a_judges_size_says_nothing_about_the_models(synthetic, tmp_path):
    synthetic.add("judge/mt_bench/prepare_model", num_parameters=10_000_000)
    synthetic.add_score("small", "gsm8k", items([0, 1]), [answers(synthetic, "small", "gsm8k")])
    page, summary = write(synthetic, tmp_path / "out", ("small",))
    assert "10 million" not in summary
    assert "<dt>models</dt><dd>135 million parameters</dd>" in page


def test_how_models_are_asked_may_differ_but_not_what(synthetic):
    for model, limit in (("small", 4), ("hosted", 5)):
        synthetic.add_score(model, "gsm8k", items([0, 1]), [answers(synthetic, model, "gsm8k", limit=limit)])
    with pytest.raises(UserError) as raised:
        results_of(synthetic)
    expected = "hosted/gsm8k/generate: benchmark.limit is 5, expected 4 as in small/gsm8k/generate"
    assert raised.value.problems == (expected,)


def test_ratings_of_two_judges_are_refused(synthetic):
    for model, judge in (("small", "gpt-0"), ("other", "gpt-1")):
        add_mt_bench(synthetic, model, answers(synthetic, model, "mt_bench"), [5.0] * 8, judge)
    with pytest.raises(UserError, match="other/mt_bench/judge: another judge than that of small/mt_bench/judge"):
        results_of(synthetic)


def test_several_samples_are_compared_by_problem(synthetic, tmp_path):
    rates = {"small": [0.0, 0.1, 0.5, 0.2, 0.9], "other": [0.2, 0.1, 0.7, 0.1, 1.0]}
    for model, values in rates.items():
        metrics = {"pass@1": mean_metric([[value] for value in values]).model_dump()}
        read = [answers(synthetic, model, "humaneval", num_samples=10)]
        synthetic.add_score(model, "humaneval", items(values), read, "pass@1", metrics=metrics)
    (comparison,) = results_of(synthetic).comparisons
    assert comparison.base.interval == bootstrap_interval(rates["small"])
    assert comparison.paired == compare_paired(rates["small"], rates["other"], sampled=True)
    assert comparison.paired.interval.method == "bootstrap by problem"
    assert (comparison.fixed, comparison.broken) == (("item-0", "item-2", "item-4"), ("item-3",))
    page, _ = write(synthetic, tmp_path / "out")
    assert 'data-outcome="fixed" title="item-0, item-2, item-4">3</a>' in page


def test_every_two_models_are_compared_once(synthetic):
    scores = {"small": [0] * 10, "other": [1] * 5 + [0] * 5, "hosted": [1] * 9 + [0]}
    for model, values in scores.items():
        synthetic.add_score(model, "gsm8k", items(values), [answers(synthetic, model, "gsm8k")])
    results = results_of(synthetic)
    (matrix,) = matrices(results)
    differences = {row: [entry and round(entry[0], 6) for entry in entries] for row, entries in matrix.rows}
    assert differences == {"small": [None, -0.5, -0.9], "other": [0.5, None, -0.4], "hosted": [0.9, 0.4, None]}
    hosted_and_other = dict(matrix.rows)["hosted"][1]
    assert hosted_and_other is not None
    assert hosted_and_other[1].paired == compare_paired(scores["other"], scores["hosted"])
    # 5 of 5 changed: p = 2 / 2^5 = 0.0625; 9 of 9: 2 / 2^9
    assert [(model, cells[0].verdict) for model, cells in leaderboard(results)] == [
        ("small", "level"),
        ("other", "level"),
        ("hosted", "better"),
    ]


def test_many_comparisons_are_counted_with_what_chance_would_give(synthetic):
    for number in range(8):
        for model, scores in (("small", [0] * 10), ("other", [1] * 9 + [0])):
            name = f"task-{number}"
            synthetic.add_score(model, name, items(scores), [answers(synthetic, model, name)])
    (headline,) = headlines(results_of(synthetic), [])
    assert headline.text.startswith("8 comparisons with small: 8 better, 0 worse, 0 not distinguishable")
    assert "about 0.4 would differ by chance alone" in headline.text


def test_categories_and_turns_by_hand(synthetic, tmp_path):
    ratings = {"small": [2.0] * 8, "hosted": [float(rating) for rating in range(3, 11)]}
    for model, values in ratings.items():
        add_mt_bench(synthetic, model, answers(synthetic, model, "mt_bench"), values)
    (found,) = categories(results_of(synthetic))
    assert (found.models, found.columns, found.limit) == (("small", "hosted"), ("turn 1", "turn 2", "both"), 10.0)
    rows = {name: [score and score.value for score in scores] for name, _, scores in found.rows}
    assert list(rows) == [*CATEGORIES, "all"]
    assert rows["writing"] == [2.0, 1.0, 1.5, 3.0, 2.0, 2.5]
    assert rows["all"] == [2.0, 1.0, 1.5, 6.5, 5.5, 6.0]
    (radar,) = found.radars
    assert [(series.kind, series.model) for series in radar.series] == [("base", "small"), ("tuned", "hosted")]
    for index, (x, y) in enumerate(radar.series[1].points):
        shown = math.hypot(x - CENTRE[0], y - CENTRE[1]) / RADIUS * 10
        assert shown == pytest.approx(ratings["hosted"][index] - 0.5, abs=0.01)
    x, y = radar.series[1].points[2]  # a quarter turn from the top, clockwise
    assert (x > CENTRE[0], y) == (True, CENTRE[1])
    page, summary = write(synthetic, tmp_path / "out", ("small", "hosted"))
    assert "hosted: writing 2.50, roleplay 3.50" in page
    assert "<summary>mt_bench: 1 part<" in page  # the spread; the table has all others
    assert "gpt-0 at https://api.example/v1" in page
    assert "0.500 (small), 0.500 (hosted)" in page
    assert "rating_math" not in summary
    assert "2\N{NO-BREAK SPACE}truncated, 1\N{NO-BREAK SPACE}unparsable" in page


def test_a_category_without_a_rating_has_no_place_in_the_plot(synthetic):
    add_mt_bench(synthetic, "small", answers(synthetic, "small", "mt_bench"), [5.0] * 8)
    results = results_of(synthetic)
    (whole,) = categories(results)
    scores = results.evaluations[0].scores
    object.__setattr__(results.evaluations[0], "scores", tuple(s for s in scores if s.metric != "rating_math"))
    (found,) = categories(results)
    assert len(whole.radars[0].series[0].points) == 8
    assert len(found.radars[0].series[0].points) == 7
    assert "math" not in [name for name, _, _ in found.rows]


def test_win_rates_name_their_opponent_and_count_both_orders(synthetic, tmp_path):
    opponent = answers(synthetic, "small", "mt_bench_pairs")
    outcomes = [1.0] * 10 + [0.5] * 4 + [0.0] * 2
    add_pairs(synthetic, "hosted", answers(synthetic, "hosted", "mt_bench_pairs"), opponent, outcomes)
    page, summary = write(synthetic, tmp_path / "out")
    row = re.search(r'<td data-label="against">small</td>.*?</tr>', page, re.S)
    assert row
    cells = [re.sub(r"<[^>]+>|\s+", " ", cell).split() for cell in re.findall(r"<td.*?</td>", row[0], re.S)]
    assert cells[1][:3] == ["0.750", "±", "0.091"]
    # squared deviations 10 / 16 + 4 / 16 + 2 * 9 / 16 = 2, stderr sqrt(2 / 15 / 16)
    # 10 of 12 decided questions were won: 2 * (1 + 12 + 66) / 2^12
    assert cells[2:] == [["0.039"], ["16"], ["10"], ["4"], ["2"], ["4"]]
    assert "hosted wins against small on mt_bench_pairs: a win rate of 0.750 ± 0.091 over 16 items" in page
    assert "Without a comparison" not in page
    assert "win_rate_writing" not in summary


def test_parts_of_a_benchmark_are_folded(synthetic, tmp_path):
    for model in ("small", "other"):
        metrics = {"exact_match": mean_metric([0, 1, 1, 1]).model_dump()}
        metrics |= {f"subject_{n}/exact_match": mean_metric([0, 1]).model_dump() for n in range(60)}
        read = [answers(synthetic, model, "math")]
        synthetic.add_score(model, "math", items([0, 1, 1, 1]), read, metrics=metrics)
    page, summary = write(synthetic, tmp_path / "out", ("small", "other"))
    assert "subject_" not in summary
    before, _, folded = page.partition("<summary>math: 60 parts</summary>")
    assert "subject_" not in before
    assert folded.partition("</details>")[0].count("subject_") == 60


def test_parts_have_a_row_and_their_metrics_columns():
    headline = ["marked", "acc", "acc_norm"]
    assert split("algebra/acc,none", headline) == ("algebra", "acc,none")
    assert split("mmlu/stem/acc,none", headline) == ("mmlu/stem", "acc,none")
    assert split("marked_level_1", headline) == ("level_1", "marked")
    assert split("acc_norm_physics", headline) == ("physics", "acc_norm")
    assert split("bleu", headline) == ("bleu", "")


def _tasks(scores):
    """Items of two tasks, one twice as large: those of lm-eval's groups."""
    names = ["easy/0", "easy/1", "easy/2", "easy/3", "hard/0", "hard/1"]
    return [{**item, "id": name, "acc,none": item["score"]} for name, item in zip(names, items(scores), strict=True)]


def test_a_mean_of_tasks_is_compared_with_every_task_weighing_alike(synthetic):
    scores = {"small": [0, 1, 0, 1, 0, 0], "other": [1, 1, 1, 1, 0, 1]}
    for model, values in scores.items():
        tasks = {"easy": values[:4], "hard": values[4:]}
        means = {name: mean_metric([float(value) for value in found]) for name, found in tasks.items()}
        whole = {"value": fmean(fmean(found) for found in tasks.values()), "stderr": 0.1, "n": 6}
        metrics = {"mean_of_tasks": whole} | {f"{name}/acc,none": each.model_dump() for name, each in means.items()}
        read = [answers(synthetic, model, "group")]
        synthetic.add_score(model, "group", _tasks(values), read, "mean_of_tasks", metrics=metrics)
    results = results_of(synthetic)
    whole, easy, hard = results.comparisons
    assert whole.base.mean_of == "groups"
    # differences (1 0 1 0) and (0 1): means 0.5 and 0.5, s^2 / n = (1/3) / 4 and (1/2) / 2
    assert whole.paired.difference == pytest.approx(whole.difference) == pytest.approx(0.5)
    assert whole.paired.stderr == pytest.approx((1 / 12 + 1 / 4) ** 0.5 / 2)
    assert (whole.fixed, whole.broken) == (("easy/0", "easy/2", "hard/1"), ())
    # weighted differences 0.75 0.75 1.5: of 8 patterns of signs, +++ and --- reach their sum
    assert whole.paired.p_value == pytest.approx(2 / 8)
    assert (easy.paired.n, easy.paired.num_raised, hard.paired.n) == (4, 2, 2)
    (table,) = parts(results, [])
    assert [(name, n) for name, n, _ in table.rows] == [("easy", 4), ("hard", 2)]
    assert table.metrics == ("acc,none",)


def test_isolation_versions_and_long_settings_are_shown(synthetic, tmp_path):
    details = {"isolation": "namespaces", "task_hash": "ab" * 32, "tasks": {"one": {"version": 7}},
               "not_enforced": ["no network", "memory"], "num_samples": 10}  # fmt: skip
    read = [answers(synthetic, "small", "humaneval", num_samples=10, data={})]
    synthetic.add_score("small", "humaneval", items([0, 1]), read, details=details)
    page, summary = write(synthetic, tmp_path / "out", ("small",))
    said = page[page.index('id="evaluation"') : page.index('id="plan"')]
    assert "namespaces" in said
    assert "<dd>abababababab</dd>" in said
    assert said.count("num samples") == 1
    assert "more settings" in said
    assert "humaneval: the machine that ran the programs could not enforce no network, memory." in summary


def test_only_so_many_items_are_embedded_those_that_changed_first(synthetic):
    scores = [0] * (MOST_ITEMS + 500)
    for model, changed in (("small", scores), ("other", [*scores[:-3], 1, 1, 1])):
        synthetic.add_score(model, "mmlu", items(changed), [answers(synthetic, model, "mmlu")])
    (benchmark,) = browser_data(results_of(synthetic))["benchmarks"]
    ids = [item["id"] for item in benchmark["items"]]
    assert len(ids) == MOST_ITEMS
    assert ids[:2] == ["item-0", "item-1"]
    assert ids[-3:] == [f"item-{MOST_ITEMS + number}" for number in (497, 498, 499)]
    assert benchmark["num_items"] == MOST_ITEMS + 500


def test_results_json_lists_what_changed(synthetic, tmp_path):
    for model, scores in (("small", [0, 1, 1]), ("other", [1, 0, 1])):
        synthetic.add_score(model, "gsm8k", items(scores), [answers(synthetic, model, "gsm8k")])
    write(synthetic, tmp_path / "out", ("small", "other"))
    record = json.loads((tmp_path / "out" / "results.json").read_text())
    (comparison,) = record["comparisons"]
    assert (comparison["fixed"], comparison["broken"]) == (["item-0"], ["item-1"])
    assert record["evaluations"][0]["scores"][0]["interval"]["method"] == "Wilson"
