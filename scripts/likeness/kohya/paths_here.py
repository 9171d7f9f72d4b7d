"""How the paths of a project are written into a config.yaml."""

import os
from pathlib import Path


def path_here(path: Path, folder: Path) -> str:
    """A path for the config.yaml in `folder`: relative if it leads into that folder, else whole. So the project can be
    moved together with its config.yaml, and no path climbs out of it. Links keep their names."""
    whole, base = Path(os.path.abspath(path)), Path(os.path.abspath(folder))
    return str(whole.relative_to(base) if whole.is_relative_to(base) else whole)
