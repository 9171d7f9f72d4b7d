"""Fixtures for tests of the training."""

import pytest

from likeness.training import loop


@pytest.fixture
def every_step_is_reported(monkeypatch):
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_READS", 0.0)
