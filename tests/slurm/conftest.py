"""One cluster for all tests of this folder."""

import os
from collections.abc import Iterator

import pytest

from cluster import Cluster, started_cluster, why_not
from cluster_project import ACCOUNT


@pytest.fixture(scope="session")
def cluster(tmp_path_factory) -> Iterator[Cluster]:
    if reason := why_not():
        # Where the whole is judged, what was not tested has not passed.
        (pytest.fail if "CI" in os.environ else pytest.skip)(reason)
    with started_cluster(tmp_path_factory.mktemp("cluster"), ACCOUNT) as cluster:
        yield cluster
