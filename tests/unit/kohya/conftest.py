"""A project of kohya's trainer on the disk."""

import pytest

from kohya_project import concept


@pytest.fixture
def kohya(tmp_path, monkeypatch):
    """The working directory, with kohya's folders in mia/."""
    monkeypatch.chdir(tmp_path)
    concept(tmp_path / "mia/img/25_ohwx woman")
    concept(tmp_path / "mia/reg/1_woman", photos=2)
    for name in ("log", "model"):
        (tmp_path / "mia" / name).mkdir()
    return tmp_path
