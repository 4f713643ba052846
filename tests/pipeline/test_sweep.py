"""A sweep is one recipe several times: common work once, and each mistake once, with its place and its variants."""

import json
import subprocess
from pathlib import Path

import jsonschema
import pytest

from pipeline import plan as plans
from pipeline import preflight, sweep
from pipeline import recipe as recipes
from pipeline.errors import UserError
from pipeline.plan import Plan
from pipeline.recipe import schema
from pipeline.step import Step
from pipeline.store import Store
from pipeline.variants import services
from pipeline.yaml_nodes import compose
from tests.pipeline.toy import workflow
from tests.pipeline.toy.workflow import Recipe

TOY = "name: toy\ntracks: {a: {value: 1}, b: {value: 2, ask: true}}\n"


@pytest.fixture
def swept(recipe):
    """Write a toy recipe with that sweep."""
    return lambda text: recipe(f"{TOY}sweep: {text}\n")


def load(path: Path, *overrides: str) -> dict[str, Recipe]:
    return recipes.load_variants(path, Recipe, list(overrides))


def problems(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(UserError) as caught:
        plans.load(path, list(overrides))
    return str(caught.value).replace(f"{path}:", "").splitlines()


def names(plan: Plan, stage: str = "") -> list[str]:
    return [step.name for step in plan.steps if stage in ("", step.stage)]


def test_fields_are_combined_and_values_are_called_as_they_are_written(swept):
    loaded = load(swept("{scale: [1e-1, 2], tracks.a.value: [3, 4]}"))
    assert {name: (each.scale, each.tracks["a"].value) for name, each in loaded.items()} == {
        "scale=1e-1,value=3": (0.1, 3),
        "scale=1e-1,value=4": (0.1, 4),
        "scale=2,value=3": (2, 3),
        "scale=2,value=4": (2, 4),
    }


def test_sets_of_fields_have_names_and_are_combined_with_fields(swept):
    loaded = load(swept("{size: {small: {scale: 1, tracks.a.value: 1}, none: {}}, tracks.b.value: [5]}"))
    found = {name: (each.scale, each.tracks["a"].value, each.tracks["b"].value) for name, each in loaded.items()}
    assert found == {"size=small,value=5": (1, 1, 5), "size=none,value=5": (1, 1, 5)}


def test_a_list_is_one_block_after_the_other(swept):
    loaded = load(swept("[{scale: 1, tracks.a.value: 8}, {scale: [2, 3]}]"))
    assert {name: (each.scale, each.tracks["a"].value) for name, each in loaded.items()} == {
        "scale=1,value=8": (1, 8),
        "scale=2": (2, 1),
        "scale=3": (3, 1),
    }


def test_sections_are_set_before_the_fields_in_them(swept):
    loaded = load(swept("{tracks.a.value: [7], tracks: {only: {tracks: {a: {value: 1, ask: true}}}}}"))
    assert [(track.value, track.ask) for each in loaded.values() for track in each.tracks.values()] == [(7, True)]


def test_fields_of_one_name_are_told_apart(swept):
    assert list(load(swept("{tracks.a.value: [3], tracks.b.value: [4], scale: [2]}"))) == [
        "a.value=3,b.value=4,scale=2"
    ]


@pytest.mark.parametrize(
    ("value", "label"),
    [
        ("null", "null"),
        ("", "null"),
        ("a b/c", "a-b-c"),
        ("[a, null, 1]", "a+null+1"),
        ("'a=1,b=2'", "a-1-b-2"),
        ("-1e-5", "-1e-5"),
    ],
)
def test_names_are_fit_for_files(recipe, value, label):
    node = compose(recipe(f"sweep:\n  train.x:\n    - {value}\n"))
    assert [variant.name for variant in sweep.take(node)] == [f"x={label}"]


def test_common_work_is_done_once_and_called_after_what_its_variants_have_in_common(swept):
    plan = plans.load(swept("{scale: [1, 2], tracks.a.value: [3, 4]}"), [])
    assert names(plan, "number") == ["value=3/a/number", "b/number", "value=4/a/number"]
    assert names(plan, "ask") == ["b/first", "b/second"]
    assert names(plan, "add") == [
        "scale=1,value=3/sum", "scale=1,value=4/sum", "scale=2,value=3/sum", "scale=2,value=4/sum"
    ]  # fmt: skip
    by_name = {step.name: step for step in plan.steps}
    assert set(by_name["scale=2,value=4/sum"].dependencies()) == {by_name["value=4/a/number"], by_name["b/number"]}
    assert plan.find("scale=2,value=3/a/number") is by_name["value=3/a/number"]
    service = by_name["b/first"].service
    assert service and list(service.dependencies()) == [by_name["b/number"]]


def test_a_variant_is_the_work_that_its_values_are_alone(swept, recipe):
    plan = plans.load(swept("{scale: [1, 2], tracks.a.value: [3, 4]}"), [])
    alone = plans.load(recipe(TOY, "alone.yaml"), ["scale=2", "tracks.a.value=3"])
    assert plan.find("scale=2,value=3/sum").fingerprint == alone.find("sum").fingerprint
    assert {variant.name: variant.fingerprints for variant in plan.variants}["scale=2,value=3"] == {
        step.fingerprint for step in alone.steps
    }


def test_two_pieces_of_work_never_have_one_name(swept):
    """Each number is shared by two variants that have no value in common."""
    same, other = "{tracks.a.value: 5}", "{tracks.a.value: 6}"
    sets = f"[{{x: {{p: {same}}}, scale: 1}}, {{x: {{q: {same}}}, scale: 2}}, "
    sets += f"{{x: {{q: {other}}}, scale: 1}}, {{x: {{p: {other}}}, scale: 2}}]"
    plan = plans.load(swept(sets), [])
    assert len(set(names(plan))) == len(names(plan))
    assert names(plan, "number") == ["x=p,scale=1/a/number", "b/number", "x=q,scale=1/a/number"]


def test_kept_for_later_it_has_all_variants(swept):
    plan = plans.load(swept("{scale: [1, 2], tracks.a.value: [3, 4]}"), [])
    again = plans.thaw(json.loads(json.dumps(plans.frozen(plan))))
    assert [(step.name, step.fingerprint) for step in again.steps] == [(s.name, s.fingerprint) for s in plan.steps]
    assert again.variants == plan.variants and again.aliases.keys() == plan.aliases.keys()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{}", "3:8: sweep: found nothing, expected fields and their values"),
        ("[]", "3:8: sweep: found an empty list, expected fields and their values"),
        ("3", "3:8: sweep: found 3, expected fields and their values"),
        ("[{scale: 1}, {}]", "3:21: sweep: found nothing, expected fields"),
        ("{scale: []}", "3:16: sweep: scale: found an empty list, expected at least one value"),
        ("{tracks.a.valeu: [1]}", "3:9: tracks.a.valeu: unknown key; did you mean 'value'?"),
        ("{trakcs.a: [1]}", "3:9: trakcs: unknown key; did you mean 'tracks'?"),
        ("{name.x: [1]}", "3:9: sweep: 'x' lies below the value 'toy', which has no keys"),
        ("{scale: [1, -1], tracks.a.value: [2, 3]}", "3:20: variant scale=-1: scale: found -1, expected greater than"),
        ("{scale: [x]}", '3:17: scale: found "x", expected a number'),
        ("{scale: [1, 2], favourite: [a, c]}", "1:1: variant favourite=c: recipe: favourite: found c, expected one"),
        ("{scale: [2, 2]}", "3:8: sweep: found two variants that would be called scale=2, expected each once"),
        ("{scale: [2, 2.0]}", " sweep: scale=2 and scale=2.0 are the same work; leave one of them out"),
        ("{favourite: [a, b]}", " sweep: favourite=a and favourite=b are the same work; leave one of them out"),
        ("{tracks: [{a: {value: 1}}]}", "3:18: sweep: tracks: found {'a': {'value': 1}}, which is no short value"),
        ("{size: {small: 1}}", "3:23: sweep: size.small: found 1, expected fields and their values"),
        ("{scale: [1], size: {big: {scale: 2}}}", "3:9: sweep: scale: found twice in the variant scale=1,size=big"),
        (f"{{scale: {list(range(200))}, tracks.a.value: {list(range(200))}}}", "3:8: sweep: found 40000 variants"),
    ],
)  # fmt: skip
def test_each_mistake_is_one_line(swept, text, expected):
    lines = problems(swept(text))
    assert len(lines) == 1
    assert lines[0].startswith(expected)


def test_mistakes_of_the_recipe_itself_are_said_once(recipe):
    path = recipe("name: toy\nscale: x\nswep: 1\nsweep: {tracks.a.value: [1, 2, -3]}\n")
    assert problems(path) == [
        '2:8: scale: found "x", expected a number',
        "3:1: swep: unknown key; did you mean 'sweep'?",
        "4:32: variant value=-3: tracks.a.value: found -3, expected greater than or equal to 0",
    ]


def test_a_base_may_have_a_sweep(recipe):
    recipe(f"{TOY}sweep: {{scale: [1, 2], tracks.a.value: [1]}}\n", "base.yaml")
    assert list(load(recipe("extends: base.yaml\n"))) == ["scale=1,value=1", "scale=2,value=1"]
    assert list(load(recipe("extends: base.yaml\nsweep: {scale: [3]}\n"))) == ["scale=3,value=1"]
    assert list(load(recipe("extends: base.yaml\nsweep: null\n"))) == [""]


def test_overrides_are_for_every_variant(swept):
    path = swept("{scale: [1, 2], tracks: {x: {tracks: {a: {value: 1}}}}}")
    assert [each.tracks["a"].value for each in load(path, "tracks.a.value=7").values()] == [7, 7]


def test_overrides_change_the_sweep_and_nothing_silently_is_no_sweep_any_more(swept):
    path = swept("{scale: [1, 2], tracks.a.value: [1, 2]}")
    assert list(load(path, "sweep.tracks.a.value=[5]", "sweep.scale=3")) == ["scale=3,value=5"]
    assert list(load(path, "sweep={scale: [4]}")) == ["scale=4"]
    assert list(load(path, "sweep=null", "scale=9")) == [""]
    assert problems(path, "scale=3")[0].startswith("--set scale=3: scale is swept (3:9), so its variants")
    assert problems(path, "scale=3")[0].endswith("--set 'sweep.scale=[3]'")
    assert "tracks.a.value is swept" in problems(path, "tracks={}")[0]
    assert problems(path, "sweep.scale=[0]")[0].startswith("--set sweep.scale=[0]: scale: found 0")


def test_anchors_are_not_changed_through_one_of_their_uses(recipe):
    path = recipe("name: toy\ntracks: {a: &x {value: 1}, b: *x}\nsweep: {tracks.a.value: [2]}\n")
    assert [(each.tracks["a"].value, each.tracks["b"].value) for each in load(path).values()] == [(2, 1)]


def test_every_command_knows_variants(swept, pipeline):
    path = swept("{scale: [1, 2], tracks.a.value: [3, 4]}")

    def done(*words: object) -> subprocess.CompletedProcess[str]:
        result = pipeline(*words)
        assert result.returncode == 0, result.stderr
        return result

    assert "4 variants, 9 steps, 5 of them for several variants: 9 missing" in done("plan", path).stdout
    done("run", path, "--until", "scale=2,value=3/sum")
    assert "9 steps" in (listed := done("plan", path).stdout) and "3 cached" in listed
    done("run", path)
    again = done("run", path).stdout
    assert "nothing to do: all 9 steps of toy are cached" in again and "\n## scale=2,value=4/sum\n" in again
    assert done("status", path).stdout.count("cached") == 9
    assert "scale=1,value=4/sum is cached" in done("why", path, "scale=1,value=4/sum").stdout
    assert "step        value=4/a/number" in done("show", path, "scale=1,value=4/a/number").stdout
    assert "9 of 9 artifacts" in done("verify", path).stdout
    assert "0 folders" in done("gc").stdout
    assert "nothing to do" in done("evaluate", path).stdout
    assert "scale=1,value=3/sum [cached]" in done("plan", path, "--tree").stdout
    swept("{scale: [1]}")
    assert "6 folders" in done("gc").stdout  # its four sums, and two numbers; the others are still reached


def test_the_schema_knows_it():
    made = schema(Recipe)
    assert {"sweep", "extends", "tracks"} <= made["properties"].keys()
    check = jsonschema.Draft202012Validator(made["properties"]["sweep"]).is_valid
    good = [{"scale": [1]}, [{"scale": 1}, {"size": {"small": {"scale": 2}}}], None]
    bad = [{}, [], 3, {"scale": []}, {"size": {"small": 1}}, [{"scale": 1}, {}]]
    assert [check(value) for value in [*good, *bad]] == [True] * len(good) + [False] * len(bad)


def test_preflight_says_each_line_once_for_the_variants_that_it_is_about(swept, monkeypatch, tmp_path):
    def found(recipe: Recipe, pending: list[Step], judged: list[Step] | None = None) -> list[str]:
        assert pending == judged and all(step.stage != "add" or step.name.startswith("scale=") for step in pending)
        return ["all", *(["big"] if recipe.scale > 1 else [])]

    monkeypatch.setattr(workflow, "problems", found)
    plan = plans.load(swept("{scale: [1, 2], tracks.a.value: [3, 13]}"), [])
    with pytest.raises(UserError) as caught:
        preflight.check(plan, plan.steps, Store(tmp_path))
    assert str(caught.value).splitlines() == [
        "toy: all",
        "scale=2: big",
        "value=13/a/number: value: found 13, expected a lucky number",
    ]


def test_what_can_be_served_is_called_after_its_variants(swept):
    plan = plans.load(swept("{scale: [1, 2], tracks.a.value: [3, 4]}"), [])
    found = services({each.name: workflow.servable(each.recipe) for each in plan.variants}, plan.steps)
    assert list(found)[:4] == ["value=3/a", "b", "base", "value=4/a"]
    assert found["scale=2,value=4/a"].fingerprint == found["value=4/a"].fingerprint
    assert list(found["scale=2,value=4/a"].dependencies()) == [plan.find("value=4/a/number")]


def test_one_track_alone_is_so_in_every_variant(swept):
    path = swept("{scale: [1, 2], tracks.b.value: [3, 4]}")
    plan = plans.load(path, [], track="a")
    assert names(plan) == ["a/number", "scale=1/sum", "scale=2/sum"]
    with pytest.raises(UserError, match="variant scale=1,value=3: found no track 'c', expected one of a, b"):
        plans.load(path, [], track="c")
