"""Several jobs of one recipe record what they did, at once, and none of it is lost."""

import multiprocessing
from pathlib import Path

from pipeline import history
from pipeline.store import Store

NUM_WRITERS, NUM_STEPS = 4, 5


def _work(root: Path, recipe: Path, writer: int) -> None:
    for step in range(NUM_STEPS):
        history.update(Store(root), recipe, steps={f"{writer}/{step}": "f" * 64})


def test_writers_do_not_lose_each_others_steps(tmp_path):
    recipe = tmp_path / "toy.yaml"
    history.update(Store(tmp_path), recipe, ["scale=2"], {"old": "e" * 64})
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_work, args=(tmp_path, recipe, number)) for number in range(NUM_WRITERS)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    record = history.read(Store(tmp_path), recipe)
    wanted = {f"{writer}/{step}" for writer in range(NUM_WRITERS) for step in range(NUM_STEPS)}
    assert record.steps.keys() == {"old", *wanted}
    assert record.overrides == ["scale=2"]
    assert history.all_of(Store(tmp_path)) == [record]
