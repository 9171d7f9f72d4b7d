"""What a person decides about a photo comes before what the program finds, and the table says both."""

from pathlib import Path

import pandas as pd
import pytest

from curated import clean, fates, held_out, settings
from likeness.core.errors import LikenessError
from likeness.faces.curation import curate


def rows(table, **by_hand: dict) -> dict[str, dict]:
    """The rows by name, with decisions about photos (`blurred=...` is about blurred.jpg)."""
    decisions = {f"{name}.jpg": decision for name, decision in by_hand.items()}
    return {Path(row["photo"]).name: row for row in curate(table, settings(), by_hand=decisions)}


def changed(table, **by_hand: dict) -> set[str]:
    """The photos about which a decision changed anything."""
    before, after = rows(table), rows(table, **by_hand)
    return {name for name in before if before[name] != after[name]}


def test_a_photo_that_was_dropped_by_hand_is_gone_and_its_row_says_who_dropped_it(table):
    row = rows(table, **{"00": {"use": "drop"}})["00.jpg"]
    assert (row["fate"], row["reason"]) == ("dropped", "by_hand")
    assert row["detail"] == "you left it out (decisions.yaml)"
    row = rows(table, blurred={"use": "drop"})["blurred.jpg"]
    assert row["detail"].startswith("you left it out (decisions.yaml); blurred too: the face is blurred")


@pytest.mark.parametrize(
    ("photo", "reason"),
    [
        ("blurred", "blurred"),
        ("too_dark", "bad_exposure"),
        ("half_a_face", "occluded"),
        ("somebody_else", "other_person"),
        ("mirror", "several_faces"),
        ("07_brighter_copy", "near_duplicate"),
    ],
)
def test_every_reason_can_be_overruled_and_stands_beside_the_photo(table, photo, reason):
    name = f"{photo}.jpg"
    before = rows(table)[name]
    assert before["reason"] == reason
    after = rows(table, **{photo: {"keep": [reason]}})
    assert after[name]["fate"] in ("train", "heldout") and after[name]["reason"] == ""
    assert f"kept by you (decisions.yaml) although {reason}: {before['detail']}" in after[name]["detail"]


def test_another_reason_than_the_overruled_one_still_drops_a_photo(table):
    assert rows(table, blurred={"keep": ["too_small"]})["blurred.jpg"] == rows(table)["blurred.jpg"]


def test_two_reasons_need_two_decisions(table):
    """The photo from afar is another one made smaller."""
    first = rows(table, far_away={"keep": ["too_small"]})["far_away.jpg"]
    assert (first["fate"], first["reason"]) == ("dropped", "near_duplicate")
    both = rows(table, far_away={"keep": ["near_duplicate", "too_small"]})["far_away.jpg"]
    assert both["reason"] == "" and both["detail"].index("although too_small") < both["detail"].index("near_duplicate")


def test_the_subjects_face_can_be_named(table):
    by_measure = rows(table)["two_people.jpg"]
    left, right = (rows(table, two_people={"face": number})["two_people.jpg"] for number in (1, 2))
    assert float(left["center_x"]) < float(right["center_x"]) and {left["reason"], right["reason"]} == {""}
    assert by_measure["center_x"] in (left["center_x"], right["center_x"])
    assert left["detail"] == "2 faces; the subject's was named by you (decisions.yaml)"
    row = rows(table, two_people={"face": 3})["two_people.jpg"]
    assert row["fate"] == "dropped" and row["detail"] == "decisions.yaml: the photo has 2 faces, so there is no face 3"


def test_a_photo_is_held_out_or_trained_on_as_decided(table):
    by_measure = held_out(curate(table, settings()))
    trained = next(name for name, fate in fates(curate(table, settings())).items() if fate == "train")
    judged = min(by_measure)
    after = rows(table, **{Path(trained).stem: {"use": "heldout"}, Path(judged).stem: {"use": "train"}})
    assert (after[trained]["fate"], after[judged]["fate"]) == ("heldout", "train")
    assert sum(row["fate"] == "heldout" for row in after.values()) == len(by_measure), "the share stays"


def test_look_alikes_of_a_photo_that_was_held_out_by_hand_are_held_out(table):
    """Two photos of one moment that are no copies: otherwise the judge would see what training saw."""
    photos = clean(table)
    twin = photos[photos["photo"].str.endswith("/03.jpg")]
    burst = twin.assign(photo="03_b.jpg", sha256="b", aligned="", phash=f"{int(twin['phash'].iloc[0], 16) ^ 0xFF:016x}")
    joined = pd.concat([photos, burst], ignore_index=True)
    found = {use: rows(joined, **{"03": {"use": use}}) for use in ("train", "heldout")}
    assert {use: found[use]["03_b.jpg"]["fate"] for use in found} == {"train": "train", "heldout": "heldout"}
    apart = rows(joined, **{"03": {"use": "heldout"}, "03_b": {"use": "train"}})
    assert (apart["03.jpg"]["fate"], apart["03_b.jpg"]["fate"]) == ("heldout", "train")


def test_too_few_are_left_to_train_on_if_all_are_held_out(table):
    photos = clean(table)
    decisions = {Path(photo).stem: {"use": "heldout"} for photo in photos["photo"]}
    with pytest.raises(LikenessError, match="holds out so many photos that 0 are left to train on, and at least 5"):
        rows(photos, **decisions)


def test_a_crop_by_hand_is_in_the_table_of_its_photo_alone(table):
    crop = {"crop": [300.0, 200.0, 256], "rotation": None}
    assert changed(table, **{"05": crop}) == {"05.jpg"}
    assert rows(table, **{"05": crop})["05.jpg"]["crop"] == '{"crop":[300.0,200.0,256],"rotation":null}'
