"""The advice says which photos are missing, and what all photos have in common."""

import json

import pandas as pd

from curated import clean, settings
from likeness.faces import curation, photo_advice


def advice_for(table: pd.DataFrame, **attributes) -> str:
    """The advice for the clean photos with some measurements replaced."""
    rows = curation.curate(clean(table), settings())
    for row in rows:
        row["attributes"] = json.dumps(json.loads(row["attributes"]) | attributes)
    return " ".join(photo_advice.advice(rows))


def test_advice_names_what_the_photos_do_not_show(table):
    advice = " ".join(photo_advice.advice(curation.curate(clean(table), settings())))
    assert "turned to the left" in advice and "straight" not in advice


def test_advice_names_what_all_photos_show(table):
    assert "100% with glasses" in advice_for(table, glasses=True)
    assert "with glasses" not in advice_for(table, glasses=False)
    assert "100% smiling" in advice_for(table, smile=0.9)
    assert "backgrounds are all alike" in advice_for(table, background=0.5)


def test_advice_counts_the_photos_that_are_missing_in_daylight(table):
    rows = [row for row in curation.curate(clean(table), settings()) if row["fate"] == "train"]
    for i, row in enumerate(rows):
        row["brightness"] = "0.2" if i < len(rows) - 4 else "0.5"
    dim = len(rows) - 4
    assert (
        f"{dim} of {len(rows)} are in dim light: {dim - 4} more photos in daylight would help."
        in photo_advice.advice(rows)
    )
