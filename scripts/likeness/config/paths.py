"""Where the paths of config.yaml lead: relative ones are searched below the workflow's roots."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from likeness.config.mistakes import hint
from likeness.core.errors import LikenessError
from likeness.core.section import quote


def photo_folder(photos: str, roots: Iterable[Path], whom: str = "one person") -> Path:
    """The path of a folder of photos. Raises LikenessError if it does not exist; `whom` is for the message."""
    folder = found_below(photos, roots, os.path.isdir)
    if folder is None:
        raise LikenessError(f"no folder {quote(photos)}; expected a folder of photos of {whom}{hint(photos)}")
    return folder


def is_file(path: str, roots: Iterable[Path]) -> bool:
    return found_below(path, roots, os.path.isfile) is not None


def found_below(path: str, roots: Iterable[Path], exists: Callable[[Path], bool] = os.path.exists) -> Path | None:
    """A path of the configuration below the first of `roots` in which it exists. `exists` is a function of os.path: for
    a name that is too long it returns False, and Path's methods raise an error."""
    return next((root / path for root in roots if exists(root / path)), None)
