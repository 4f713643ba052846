"""The report page in headless Chromium (`apt-get install chromium`), opened from disk as a user would."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.stage import Resources, Workspace
from stages import report
from tests.stages.synthetic_run import SyntheticRun, add_answers, add_mt_bench, add_training, items

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
HARMFUL = "</script><script>window.harmed = 1</script><img src=x onerror='window.harmed = 1'><b>bold</b>"


@pytest.fixture(scope="module")
def page_path(tmp_path_factory) -> Path:
    """A report on 30 items (4 fixed, 1 broken, 5 right, 20 wrong; one is harmful), on MT-Bench and 3 graded ones."""
    run = SyntheticRun(tmp_path_factory.mktemp("store"))
    add_training(run)
    base, tuned = items([0] * 4 + [1] * 6 + [0] * 20), items([1] * 4 + [0] + [1] * 5 + [0] * 20)
    tuned[2] |= {"question": HARMFUL, "answer": HARMFUL, "extracted": HARMFUL}
    base[2] |= {"question": HARMFUL, "answer": "A unique phrase.", "finish_reason": "length"}
    run.add_score("base", "arithmetic", base, ["prepare_model"])
    run.add_score("math", "arithmetic", tuned, ["math/merge"])
    for model, source, ratings in (("base", "prepare_model", [4.0] * 8), ("math", "math/merge", [6.0, 7.0] * 4)):
        add_mt_bench(run, model, add_answers(run, model, "mt_bench", source), ratings)
    run.add_score("math", "the_last_benchmark_of_all", items([0, 1]), ["math/merge"])
    turns = {"question": ["First turn?", "Second turn?"], "answer": ["One.", "Two."], "reference": None}
    run.add_score("base", "graded", items([4.0, 5.0, None], **turns), ["prepare_model"], metric="rating")
    run.add_score("math", "graded", items([6.0, 5.0, 3.0], **turns), ["math/merge"], metric="rating")
    out = tmp_path_factory.mktemp("out")
    config = report.Config(title=f"A run {HARMFUL}", description=HARMFUL, models=("base", "math"))
    report.run(config, report.Inputs(steps=run.steps), Workspace(out), Resources())
    return out / "report.html"


@pytest.fixture(scope="module")
def browser() -> Iterator:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        assert CHROMIUM, "no Chromium: apt-get install chromium, or name one in CHROMIUM"
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield running
        running.close()


@pytest.fixture
def opened(browser, page_path):
    """A function that opens the page and returns it with what it complained about or asked the network for."""
    contexts = []

    def open_page(**settings):
        context = browser.new_context(**settings)
        contexts.append(context)
        page, troubles = context.new_page(), []
        page.on("console", lambda message: troubles.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.goto(page_path.as_uri())
        page.on("request", lambda request: troubles.append(request.url))
        page.reload()
        troubles.remove(page_path.as_uri())
        return page, troubles

    yield open_page
    for context in contexts:
        context.close()


def found(page) -> str:
    return page.locator(".found").inner_text()


def choose(page, outcome: str) -> None:
    page.locator(f".outcomes label:has(input[value={outcome}])").click()


def test_page_is_silent_and_asks_for_nothing(opened):
    page, troubles = opened()
    assert page.locator("h1").inner_text().startswith("A run </script>")
    assert troubles == []


def test_a_models_words_do_nothing(opened):
    page, _ = opened()
    page.get_by_label("Search").fill("onerror")
    assert found(page) == "1 of 30 items"
    page.locator(".items details").first.evaluate("node => { node.open = true }")
    assert page.evaluate("window.harmed") is None
    assert page.locator("img, .items b").count() == 0
    assert HARMFUL in page.locator(".answer > .text").nth(1).inner_text()


@pytest.mark.parametrize(
    ("outcome", "number"), [("all", 30), ("changed", 5), ("fixed", 4), ("broken", 1), ("wrong", 20), ("right", 5)]
)
def test_outcomes_filter(opened, outcome, number):
    page, troubles = opened()
    choose(page, outcome)
    assert found(page) == f"{number} of 30 items"
    assert page.locator(".item").count() == min(20, number)
    assert troubles == []


def test_search_and_outcome_narrow_together(opened):
    page, _ = opened()
    page.get_by_label("Search").fill("unique PHRASE")
    assert found(page) == "1 of 30 items"
    assert page.locator("mark").inner_text() == "unique phrase"
    assert page.locator(".answer h4").all_inner_texts() == ["base (cut off)\n✗ wrong", "math\n✓ right"]
    choose(page, "broken")
    assert found(page) == "0 of 30 items"


def test_numbers_of_changed_items_lead_to_them(opened):
    page, troubles = opened()
    page.get_by_label("Benchmark").select_option(label="mt_bench")
    page.get_by_label("Search").fill("nothing has this")
    page.locator("a[data-outcome=broken]").first.click()
    assert found(page) == "1 of 30 items"
    assert page.locator("input[value=broken]").is_checked()
    page.locator("a[data-outcome=fixed]").first.click()
    assert found(page) == "4 of 30 items"
    assert troubles == []


def test_radar_plot_shows_both_models_and_says_so(opened):
    page, _ = opened()
    plot = page.locator(".radar svg")
    assert plot.get_attribute("role") == "img"
    assert "math: writing" in plot.get_attribute("aria-label")
    inside = plot.bounding_box()
    for kind in ("base", "tuned"):
        box = page.locator(f".radar polygon.{kind}").bounding_box()
        assert 0 < box["width"] <= inside["width"]
    labels = page.locator(".radar text:not(.scale)").all()
    assert [label.text_content() for label in labels[:2]] == ["writing", "roleplay"]
    boxes = [label.bounding_box() for label in labels]
    assert all(box["x"] >= 0 and box["x"] + box["width"] <= 1280 for box in boxes)


def test_more_items_on_request(opened):
    page, _ = opened()
    page.get_by_role("button", name="Show more").click()
    assert page.locator(".item").count() == 30
    assert not page.get_by_role("button", name="Show more").is_visible()


def test_graded_benchmark_shows_turns_and_scores(opened):
    page, _ = opened()
    page.get_by_label("Benchmark").select_option(label="graded")
    assert found(page) == "3 of 3 items"
    assert page.locator(".item").first.locator(".question .text").all_inner_texts() == ["First turn?", "Second turn?"]
    assert "rating 6" in page.locator(".item").first.inner_text()
    choose(page, "fixed")
    assert found(page) == "1 of 3 items"


def test_dark_and_light_differ_and_both_contrast(opened):
    def colours(page):
        return page.evaluate("[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]")

    light, _ = opened(color_scheme="light")
    dark, _ = opened(color_scheme="dark")
    assert colours(light) != colours(dark)
    for page in (light, dark):
        background, ink = (sum(map(int, colour[4:-1].split(","))) for colour in colours(page))
        assert abs(background - ink) > 400


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_nothing_is_wider_than_the_screen(opened, width):
    page, _ = opened(viewport={"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_words_stay_in_the_boxes_of_the_plan(opened):
    page, _ = opened()
    boxes = page.locator(".graph g").all()
    assert any("…" in box.locator(".track").text_content() for box in boxes)
    for box in boxes:
        frame, track = box.locator("rect").bounding_box(), box.locator(".track").bounding_box()
        if track:  # steps that all share have none
            assert track["x"] + track["width"] <= frame["x"] + frame["width"]


def test_figures_fit_the_screen(opened):
    phone, _ = opened(viewport={"width": 390, "height": 800})
    assert phone.locator(".plot.narrow").first.is_visible()
    assert not phone.locator(".plot.wide").first.is_visible()


def test_prints(opened):
    page, _ = opened()
    assert page.pdf(format="A4").startswith(b"%PDF")
    page.emulate_media(media="print")
    assert not page.locator("nav").is_visible()


def test_reads_without_javascript(opened):
    page, _ = opened(java_script_enabled=False)
    assert page.locator("noscript").inner_text().startswith("Browsing the answers needs JavaScript")
    assert not page.locator(".filters").is_visible()
    assert page.locator("table.scores").first.is_visible()
    assert page.locator(".radar svg").is_visible()
