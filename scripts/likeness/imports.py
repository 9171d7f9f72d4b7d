"""What a job leaves out to start sooner: most of its seconds before the first step are imports."""

import gc
import sys

# The libraries import it wherever it is installed, for models in 4 and 8 bits, which nothing here loads: 2 of the 11
# seconds that they take on the machine of docs/training.md.
UNUSED = "bitsandbytes"
LIBRARIES = {"accelerate", "diffusers", "peft", "transformers"}


def start_sooner() -> None:
    """Hide UNUSED from LIBRARIES, unless one is there already: it may have seen it, and would miss it later. And let
    Python look for garbage rarely: imports make a million objects and no garbage, and each look goes through many of
    them (another 1.5 of those 11 seconds)."""
    if LIBRARIES.isdisjoint(sys.modules):
        sys.modules.setdefault(UNUSED, None)
    gc.set_threshold(50_000, 20, 20)


def show(package: str) -> None:
    """Let a package be imported that `start_sooner` hid."""
    if sys.modules.get(package, package) is None:
        del sys.modules[package]
