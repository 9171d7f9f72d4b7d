"""The tables of what was drawn. Apart from what is chosen by them, so that another rule measures no picture again."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from likeness.errors import LikenessError
from likeness.manifests import checked_files, read_table


def read_samples(paths: Iterable[Path]) -> pd.DataFrame:
    """The sample tables of a run as one, epochs in order, prompts in that of the configuration; `image` is absolute.

    Raises LikenessError if a table or a picture was changed since it was drawn.
    """
    tables = []
    for path in sorted(paths):
        table = read_table(path, epoch=int, weight=float, seed=int)
        folder = path.parent.resolve()
        pictures = checked_files(folder, table["image"], table["sha256"], "sample_checkpoint")
        tables.append(table.assign(image=pictures))
    if not tables:
        raise LikenessError("no sample tables; pass the samples of every epoch")
    return pd.concat(tables, ignore_index=True)
