"""One cluster for all tests that ask for it; the environment is that of its user."""

import os
from collections.abc import Iterator

import pytest

from tests.slurm.cluster import Cluster, is_slurms, running


@pytest.fixture(scope="session")
def session_cluster() -> Iterator[Cluster]:
    """Started once, stopped after the last test, also after failures."""
    with running() as cluster:
        yield cluster


@pytest.fixture
def cluster(session_cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """The cluster with an empty queue; commands of Slurm in this process and its children use it."""
    for name in filter(is_slurms, list(os.environ)):
        monkeypatch.delenv(name)
    monkeypatch.setenv("SLURM_CONF", str(session_cluster.conf))
    yield session_cluster
    session_cluster.ask("scancel", "--quiet", "--state=PENDING", "--me", check=False)
    session_cluster.ask("scancel", "--quiet", "--me", check=False)
    session_cluster.wait_for_jobs()
