"""A recipe that trains the tiny model once for each label."""

from pipeline.stage import Resources
from pipeline.step import Step
from pipeline.strict import StrictModel
from tests.slurm.tiny import start, train

SCORING = frozenset[str]()
TRAINING = frozenset({"start", "train"})
KINDS = {"start": "prepare", "train": "train"}


class Recipe(StrictModel):
    name: str
    tracks: dict[str, dict[str, str]]
    resources: Resources = Resources()


def steps(recipe: Recipe) -> list[Step]:
    """One start, which all trainings read."""
    begin = Step("start", start.Config(), name="start", resources=recipe.resources)
    return [
        Step("train", train.Config(label=label), {"start": begin}, recipe.resources, name=f"{label}/train")
        for label in recipe.tracks
    ]


def problems(_recipe: Recipe, _pending: list[Step], _judged: list[Step]) -> list[str]:
    return []
