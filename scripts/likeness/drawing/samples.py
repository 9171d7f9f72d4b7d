"""The tables of samples. Their code is not part of choosing/, so that another rule of the choice does not measure the
pictures again."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from likeness.core.errors import LikenessError
from likeness.core.manifests import checked_files, read_table


def read_samples(paths: Iterable[Path]) -> pd.DataFrame:
    """The sample tables of a run as one table: epochs in rising order, prompts in the order of the configuration;
    `image` is an absolute path.

    Raises LikenessError if a table or a picture was changed since it was made.
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
