"""Subjects in a tab-separated table, as an alternative to the section `subjects` of config.yaml."""

import csv
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from likeness.core.errors import LikenessError
from likeness.core.section import quote


def subjects_of_table(table: str, path: Path) -> dict[str, dict[str, Any]]:
    """The subjects in a tab-separated file, as they would be written in config.yaml; an empty cell is a missing key.
    `table` is the name of the file in the configuration. Raises LikenessError if the subjects cannot be read."""
    subjects: dict[str, dict[str, Any]] = {}
    try:
        for line, cells in _rows_of_table(path):
            name = cells.pop("subject", "")
            if not name or name in subjects:
                what = f"the name {quote(name)} stands there twice" if name else "no name in the column subject"
                raise ValueError(f"line {line}: {what}; expected another name in every row")
            subject: dict[str, Any] = {**cells}
            if "reference" in cells:
                subject["reference"] = [photo for part in cells["reference"].split(",") if (photo := part.strip())]
            if (images := cells.get("regularisation_images", "")).isdecimal():
                subject["regularisation_images"] = int(images)
            subjects[name] = subject
    except UnicodeDecodeError:
        raise LikenessError(f"config:\n  subjects: {table} is not UTF-8; save the table as UTF-8") from None
    except (ValueError, csv.Error, OSError) as error:
        raise LikenessError(f"config:\n  subjects: {table} is not a table of subjects: {error}") from None
    return subjects


def _rows_of_table(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """The line number and the cells that are not empty, by their columns, of every row of a tab-separated file. Raises
    ValueError, csv.Error or OSError if it is not such a file, or has no column subject."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter="\t", strict=True)
        columns = [column.strip() for column in next(reader, [])]
        if "subject" not in columns:
            raise ValueError(
                f"the first line is {quote(' '.join(columns))}; expected the names of the columns, subject, photos, "
                "trigger, class_noun and consent, with tabs between"
            )
        if twice := [column for column, count in Counter(columns).items() if column and count > 1]:
            raise ValueError(f"the column {quote(twice[0])} stands there twice")
        for row in reader:
            cells = [cell.strip() for cell in row]
            if any(cells[len(columns) :]):
                raise ValueError(f"line {reader.line_num}: has {len(cells)} cells; the first line has {len(columns)}")
            if any(cells):
                yield (
                    reader.line_num,
                    {column: cell for column, cell in zip(columns, cells, strict=False) if cell and column},
                )
