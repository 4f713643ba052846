"""Which checkpoints are kept; that they are whole and hold what they should is test_resume's business."""

from pathlib import Path

import pytest

from stages._training import checkpoints
from stages._training.checkpoints import Keep, Position, Seal

LOSSES = {5: 3.0, 10: 1.0, 15: None, 20: 2.0, 25: 2.5, 30: None}
"""Step -> the validation loss measured there. The best so far is that of step 10."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for step, loss in LOSSES.items():
        folder = checkpoints.folder_of(tmp_path, step)
        folder.mkdir()
        position = Position(step=step, validation_loss=loss, best_step=10 if step >= 10 else 5)
        seal = Seal(position=position, num_processes=2, zero_stage=2, sha256={})
        (folder / checkpoints.SEAL_FILE).write_text(seal.model_dump_json())
    return tmp_path


@pytest.mark.parametrize(
    ("keep", "steps"),
    [
        (Keep(last=2, best=0), [10, 25, 30]),  # 10: what the newest may yet go back to
        (Keep(last=1, best=2), [10, 20, 30]),
        (Keep(last=1, best=3), [10, 20, 25, 30]),
        (Keep(last=9, best=0), list(LOSSES)),
    ],
)
def test_the_newest_and_the_best_are_kept(keep: Keep, steps: list[int], root: Path):
    checkpoints._drop_old(root, keep)
    assert sorted(int(folder.name.removeprefix("step-")) for folder in root.iterdir()) == steps
