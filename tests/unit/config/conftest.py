"""Fixtures for tests of the configuration."""

import shutil

import pytest

from project import ROOT


@pytest.fixture
def roots(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.jpg").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "small_base").mkdir()
    shutil.copytree(
        ROOT / "resources", tmp_path / "resources", ignore=lambda folder, names: {n for n in names if "." not in n}
    )
    return [tmp_path]
