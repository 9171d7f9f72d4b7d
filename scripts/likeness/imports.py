"""What a job leaves out to start sooner: half of its seconds before the first step are imports."""

import gc
import sys

# diffusers, transformers and peft import it wherever it is installed, for models in 4 and 8 bits, which nothing here
# loads: 2 of the 11 seconds that they take on the machine of docs/training.md.
UNUSED = "bitsandbytes"


def start_sooner() -> None:
    """Hide UNUSED from the libraries, and let Python look for garbage rarely: imports make a million objects and no
    garbage, and each look goes through many of them (another 1.5 of those 11 seconds)."""
    sys.modules.setdefault(UNUSED, None)
    gc.set_threshold(50_000, 20, 20)


def show(package: str) -> None:
    """Let a package be imported that `start_sooner` hid."""
    if sys.modules.get(package, package) is None:
        del sys.modules[package]
