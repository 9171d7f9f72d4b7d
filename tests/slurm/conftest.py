"""One cluster for all tests of this folder."""

import signal
from collections.abc import Iterator

import pytest

from cluster import Cluster, output, why_not
from cluster_project import ACCOUNT


@pytest.fixture(scope="session")
def cluster(tmp_path_factory) -> Iterator[Cluster]:
    if reason := why_not():
        pytest.skip(reason)
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    # Else it would be left behind by whoever terminates the tests, its jobs running.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        cluster.start()
        output("sacctmgr", "--immediate", "add", "account", ACCOUNT)
        output("sacctmgr", "--immediate", "add", "user", "root", f"account={ACCOUNT}")
        yield cluster
    finally:
        cluster.stop()
