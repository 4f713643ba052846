"""One cluster for all tests that ask for it; the environment is that of its user."""

import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.slurm.case import Case
from tests.slurm.cluster import Cluster, is_slurms, running


@pytest.fixture(scope="session")
def session_cluster() -> Iterator[Cluster]:
    """Started once, stopped after the last test, also after failures."""
    with running() as cluster:
        yield cluster


@pytest.fixture
def cluster(session_cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """The cluster, for Slurm's commands in this process and its children; a test's jobs end with it."""
    for name in filter(is_slurms, list(os.environ)):
        monkeypatch.delenv(name)
    monkeypatch.setenv("SLURM_CONF", str(session_cluster.conf))
    before = session_cluster.jobs()
    yield session_cluster
    if left := session_cluster.jobs() - before:
        session_cluster.ask("scancel", "--quiet", *left, check=False)


@pytest.fixture
def case(cluster: Cluster, tmp_path: Path) -> Callable[..., Case]:
    """Make cases by their names."""
    return functools.partial(Case, cluster, tmp_path)
