"""Faster starts of jobs: most of the time before the first step goes into imports."""

import gc
import sys

# LIBRARIES import it wherever it is installed, for models in 4 and 8 bits, which are not used here. It takes 2 of the
# 11 seconds of their imports on the machine of docs/training.md.
UNUSED = "bitsandbytes"
LIBRARIES = {"accelerate", "diffusers", "peft", "transformers"}


def start_sooner() -> None:
    """Hide UNUSED from LIBRARIES, unless one of them is imported already: it may have checked for UNUSED and import it
    later. And run Python's garbage collector rarely: imports make a million objects and no garbage, and each run
    traverses many of them (another 1.5 of those 11 seconds)."""
    if LIBRARIES.isdisjoint(sys.modules):
        sys.modules.setdefault(UNUSED, None)  # type: ignore[arg-type]  # None hides a module; typeshed does not know it
    gc.set_threshold(50_000, 20, 20)


def show(package: str) -> None:
    """Allow the import of a package that `start_sooner` hid."""
    if sys.modules.get(package, package) is None:
        del sys.modules[package]
