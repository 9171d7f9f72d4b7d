"""Waiting for what other processes do."""

import time
from collections.abc import Callable


def wait_for(what: str, done: Callable[[], object], seconds: float = 300) -> object:
    """Until `done` is true, and what it gave. Raises AssertionError if that takes too long."""
    end = time.monotonic() + seconds
    while not (found := done()):
        assert time.monotonic() < end, f"{what}: not within {seconds} s"
        time.sleep(0.1)
    return found
