"""The tables of what was drawn. Apart from what is chosen by them, so that another rule measures no picture again."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from likeness.errors import LikenessError
from likeness.files import read_table


def read_samples(paths: Iterable[Path]) -> pd.DataFrame:
    """The sample tables of a run as one, epochs in order, prompts in that of the configuration; `image` is absolute."""
    tables = []
    for path in sorted(paths):
        table = read_table(path, epoch=int, weight=float, seed=int)
        tables.append(table.assign(image=[str(path.parent.resolve() / image) for image in table["image"]]))
    if not tables:
        raise LikenessError("no sample tables; pass the samples of every epoch")
    return pd.concat(tables, ignore_index=True)
