"""Changed code must never be served old results: whoever changes a stage decides whether its results change."""

import json

import pytest

from tests.stages import source_hashes

RECORDED = json.loads(source_hashes.RECORD.read_text())
CURRENT = source_hashes.current()


@pytest.mark.parametrize("module", sorted({*RECORDED, *CURRENT}))
def test_changed_code_has_a_new_version_or_a_refreshed_hash(module):
    assert RECORDED.get(module) == CURRENT.get(module), (
        f"{module} changed: raise its VERSION if the same config may now give another result, "
        "then run `python -m tests.stages.source_hashes`"
    )
