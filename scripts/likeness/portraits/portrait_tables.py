"""The tables of portraits: a row for every picture after each of its stages."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from likeness.core.files import seen_from
from likeness.core.manifests import checked_files, read_table

# Written by draw_scene and place_face. docs/portraits.md describes them.
DRAWN = [
    *("kind", "name", "source", "seed", "stage", "image", "sha256", "pixels", "width", "height"),
    *("prompt", "negative_prompt", "box", "detail"),
]
# Written by score_portraits.
COLUMNS = [
    *DRAWN,
    *("faces", "identity", "judge_identity", "sharpness", "copy", "final", "rank", "kept", "reason"),
]
# The columns whose values tell one picture from the others; its rows are its stages, in order.
PICTURE = ["kind", "name", "source", "seed"]


def read_portraits(paths: Iterable[Path], folder: Path, by: str) -> pd.DataFrame:
    """The tables of scenes and places as one, in the order of `paths`; `image` is relative to `folder`, and empty for a
    picture of the user's that could not be read.

    Raises LikenessError if a table or a picture was changed since `by` made it.
    """
    tables = []
    for path in paths:
        table = read_table(path, seed=int, width=int, height=int)
        drawn = table["image"] != ""
        files = iter(checked_files(path.parent.resolve(), table["image"][drawn], table["sha256"][drawn], by))
        tables.append(table.assign(image=[seen_from(folder, Path(next(files))) if here else "" for here in drawn]))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=DRAWN)
