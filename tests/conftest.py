"""For all tests: those marked `gpu` are skipped where there is no GPU, and nothing else ever is."""

import pytest

from pipeline import machine


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU."""
    if machine.gpus():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no NVIDIA GPU on this machine"))
