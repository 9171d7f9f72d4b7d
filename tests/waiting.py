"""Waits for events in other processes."""

import subprocess
import time
from collections.abc import Callable


def wait_for(what: str, done: Callable[[], object], seconds: float = 300, by: subprocess.Popen | None = None) -> object:
    """Wait until `done()` is true, and return its result. Raises AssertionError if this takes too long, or if the
    process that should cause it has ended."""
    end = time.monotonic() + seconds
    while True:
        gone = by is not None and by.poll() is not None
        if found := done():
            return found
        assert not gone, f"{what}: never, as {by.args[0]} has ended with status {by.returncode}"
        assert time.monotonic() < end, f"{what}: not within {seconds} s"
        time.sleep(0.1)
