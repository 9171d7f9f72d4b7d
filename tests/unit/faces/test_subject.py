"""The subject is whom most photos show, or whom the reference photos show."""

import numpy as np
import pandas as pd
import pytest

from curated import clean, settings, strangers
from likeness.core.errors import LikenessError
from likeness.faces import curation
from likeness.faces.identity import decode_embedding, encode_embedding


def test_the_subject_is_whom_most_photos_show(table):
    result = curation.curate(pd.concat([clean(table), *strangers(table, 6)]), settings(near_duplicate=0))
    assert {row["photo"] for row in result if row["reason"] == "other_person"} == {f"s{i}.jpg" for i in range(6)}


def test_the_subject_is_whom_the_reference_photos_show(table):
    few = clean(table).iloc[:8]
    folder = pd.concat([few, *strangers(table, 12)])
    by_number = curation.curate(folder, settings(near_duplicate=0))
    assert {row["photo"] for row in by_number if row["reason"] == "other_person"} == set(few["photo"])
    by_name = curation.curate(folder, settings(near_duplicate=0), ["03.jpg"])
    assert {row["photo"] for row in by_name if row["reason"] == "other_person"} == {f"s{i}.jpg" for i in range(12)}
    renamed = folder.assign(photo=folder["photo"].str.replace("03.jpg", "Zoe\u0308 03.jpg"))
    by_other_form = curation.curate(renamed, settings(near_duplicate=0), ["zo\u00eb 03.JPG"])
    assert [row["fate"] for row in by_other_form if row["reason"]] == ["dropped"] * 12
    with pytest.raises(LikenessError, match=r"reference photo 02\.jpg shows 2 faces"):
        curation.curate(pd.concat([folder, few.iloc[[2]].assign(face="1")]), settings(), ["02.jpg"])


def test_two_people_on_as_many_photos_need_a_reference(table):
    folder = pd.concat([clean(table).iloc[:7], *strangers(table, 7)])
    with pytest.raises(
        LikenessError, match=r"two people are on 7 photos each \(one on 00\.jpg and 01\.jpg, .*reference"
    ):
        curation.curate(folder, settings())
    assert curation.curate(folder, settings(near_duplicate=0), ["00.jpg"])


def test_a_sister_who_is_on_several_photos_is_told_from_the_subject(table):
    """She is as like the subject as the threshold asks, but more like herself."""
    rows = clean(table)
    faces = np.stack([decode_embedding(text) for text in rows["embedding"]])
    mean = faces.mean(axis=0) / np.linalg.norm(faces.mean(axis=0))
    stranger = decode_embedding(table[table["photo"].str.contains("somebody_else")]["embedding"].iloc[0])
    across = stranger - (stranger @ mean) * mean
    sister = encode_embedding(0.5 * mean + np.sqrt(0.75) * across / np.linalg.norm(across))
    alone = [photo.assign(embedding=sister) for photo in strangers(table, 1)]
    result = {row["photo"]: row for row in curation.curate(pd.concat([rows, *alone]), settings())}
    assert result["s0.jpg"]["reason"] == "", "one photo alone is taken for hers"
    often = [photo.assign(embedding=sister) for photo in strangers(table, 4)]
    result = curation.curate(pd.concat([rows, *often]), settings(near_duplicate=0))
    dropped = {row["photo"]: row["detail"] for row in result if row["reason"] == "other_person"}
    assert set(dropped) == {f"s{i}.jpg" for i in range(4)}
    assert "similarity 0.5" in dropped["s0.jpg"] and "to somebody else" in dropped["s0.jpg"]
