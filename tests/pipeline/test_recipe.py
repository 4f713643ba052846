"""Every mistake of a recipe is one line that says where, what was found and what was expected."""

from pathlib import Path

import pytest

from pipeline import recipe as recipes
from pipeline.errors import UserError
from tests.pipeline.toy.workflow import Recipe


def problems(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(UserError) as caught:
        recipes.load(path, Recipe, list(overrides))
    return str(caught.value).splitlines()


def test_numbers_follow_yaml_1_2(recipe):
    loaded = recipes.load(recipe("name: on\nscale: 1e-4\ntracks: {a: {value: 3}}\n"), Recipe, [])
    assert (loaded.name, loaded.scale, loaded.tracks["a"].value) == ("on", 1e-4, 3)


def test_all_mistakes_at_once_with_their_places(recipe):
    path = recipe("name: toy\nscale: -2e-5\ntrakcs: {}\ntracks:\n  a: {valeu: 3}\n  b: {value: '3'}\n")
    assert problems(path) == [
        f"{path}:2:8: scale: found -2e-05, expected greater than 0",
        f"{path}:3:1: trakcs: unknown key; did you mean 'tracks'?",
        f"{path}:5:6: tracks.a.value: missing, expected 'value' here",
        f"{path}:5:7: tracks.a.valeu: unknown key; did you mean 'value'?",
        f'{path}:6:14: tracks.b.value: found "3", expected an integer',
    ]


def test_extends_merges_one_level(recipe):
    recipe("name: base\nscale: 2.0\ntracks: {a: {value: 1}}\n", "base.yaml")
    path = recipe("extends: base.yaml\nname: top\ntracks: {b: {value: 2}}\n")
    loaded = recipes.load(path, Recipe, [])
    assert (loaded.name, loaded.scale, sorted(loaded.tracks)) == ("top", 2.0, ["a", "b"])


def test_a_mistake_in_the_extended_file_names_that_file(recipe):
    base = recipe("name: base\nscale: none\n", "base.yaml")
    assert problems(recipe("extends: base.yaml\n")) == [f'{base}:2:8: scale: found "none", expected a number']


def test_extends_twice_is_refused(recipe):
    recipe("name: a\n", "a.yaml")
    recipe("extends: a.yaml\n", "b.yaml")
    assert "second level" in problems(recipe("extends: b.yaml\n"))[0]


def test_overrides_are_typed_the_same_way(recipe):
    path = recipe("name: toy\ntracks: {a: {value: 1}}\n")
    assert recipes.load(path, Recipe, ["tracks.a.value=7", "scale=1e-4"]).tracks["a"].value == 7
    assert problems(path, "scale=abc") == ['--set scale=abc: scale: found "abc", expected a number']
    assert problems(path, "tracks.a.valve=3")[0].startswith("--set tracks.a.valve=3: tracks.a.valve: unknown key")
    assert problems(path, "name.x=3") == ["--set name.x=3: 'x' lies below the value 'toy', which has no keys"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: [", "not valid YAML"),
        ("- a\n- b\n", "found a list, expected a mapping"),
        ("", "found nothing, expected a mapping"),
        ("name: a\nname: b\n", "2:1: name: found again, first in line 1"),
        ("name: !!python/object:os.system x\n", "found the tag"),
        ("name: &a [*a]\n", "more than 200000 values"),
        ("a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n"
         "d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: [*e,*e,*e,*e,*e,*e,*e,*e,*e]\n",
         "more than 200000 values"),
    ],
)  # fmt: skip
def test_what_is_no_recipe_is_refused_in_one_line(recipe, text, expected):
    lines = problems(recipe(text))
    assert len(lines) == 1
    assert expected in lines[0]


def test_a_missing_recipe_names_its_neighbours(recipe, tmp_path):
    recipe("name: x\n", "other.yaml")
    assert problems(tmp_path / "toy.yaml")[0].endswith("found no such file; YAML files beside it: other.yaml")
