"""Which portraits are shown first, and why the others are not."""

import numpy as np
import pandas as pd
import pytest

from likeness.choosing.scoring import Scale
from likeness.portraits.portrait_scores import MeasuredFace, MeasuredPerson, portrait_rows

HER, STRANGER = np.eye(128, dtype=np.float32)[:2]
CENTRE, CORNER = [0.4, 0.4, 0.2, 0.2], [0.0, 0.0, 0.1, 0.1]


def face(alike: float, box=CENTRE, sharpness: float = 0.5) -> MeasuredFace:
    """A face whose similarity to her photos is `alike` by both recognisers."""
    sface = alike * HER + np.sqrt(1 - alike**2) * STRANGER
    return MeasuredFace(box, sface, HER * alike, sharpness)


PHOTO = face(1.0)
PERSON = MeasuredPerson([PHOTO], [PHOTO], Scale(0.2, 0.7, "strangers"), Scale(0.0, 1.0, "strangers"))


def table(*stages: tuple[int, str, str]) -> pd.DataFrame:
    """Rows of one place from (seed, stage, detail); the redrawn face is in the centre."""
    about = {"kind": "place", "name": "wall", "source": "a.png", "width": 100, "height": 100}
    return pd.DataFrame(
        [
            about | {"seed": seed, "stage": stage, "box": "[40,40,20,20]" if stage == "face" else "", "detail": detail}
            for seed, stage, detail in stages
        ]
    )


def ranked(stages, faces, keep: int = 1) -> list[dict]:
    return portrait_rows(table(*stages), faces, PERSON, {"place": {"wall": keep}}, copy_limit=0.95)


def test_identity_is_0_for_a_stranger_and_1_for_her_photos():
    high, low = ranked([(1, "face", ""), (2, "face", "")], [[face(0.2)], [face(0.7)]])
    assert (low["identity"], high["identity"]) == (0.0, 1.0)
    assert (low["judge_identity"], high["judge_identity"]) == pytest.approx((0.2, 0.7), abs=1e-3)


def test_before_and_after_the_same_face_is_measured():
    """A stranger beside her, who looks more like her than the face before, does not count."""
    before, after = ranked([(1, "original", ""), (1, "face", "")], [[face(0.6, CORNER), face(0.2)], [face(0.5)]])
    assert before["identity"] == 0.0 and after["identity"] == pytest.approx(0.6)
    assert (before["final"], after["final"]) == (0, 1) and "rank" not in before


def test_without_a_redrawn_face_the_one_most_like_her_is_measured():
    scene = table((1, "plain", "")).assign(kind="scene")
    (row,) = portrait_rows(scene, [[face(0.3), face(0.6, CORNER)]], PERSON, {"scene": {"wall": 1}}, copy_limit=0.95)
    assert row["identity"] == pytest.approx(0.8) and row["faces"] == 2


def test_a_picture_in_which_only_somebody_else_was_put_is_never_hers():
    drawn = table((1, "original", "x"), (1, "face", "has no face 2; ava was not put into it")).assign(box="")
    rows = portrait_rows(drawn, [[face(0.9)], [face(0.9)]], PERSON, {"place": {"wall": 1}}, copy_limit=0.95)
    assert all("identity" not in row for row in rows)
    assert (rows[1]["kept"], rows[1]["reason"]) == (0, "has no face 2; ava was not put into it")


def test_the_most_alike_are_kept_and_the_others_say_why_not():
    rows = ranked(
        [(seed, "face", "") for seed in (1, 2, 3, 4)],
        [[face(0.4)], [face(0.6)], [face(0.98)], [face(0.5, sharpness=0.2)]],
        keep=1,
    )
    assert [row["seed"] for row in rows] == [2, 4, 1, 3], "the best first"
    assert [row["rank"] for row in rows] == [1, 2, 3, 4] and [row["kept"] for row in rows] == [1, 0, 0, 0]
    assert [row["reason"] for row in rows] == [
        "",
        "another picture is more like the person, and its face is blurred",
        "another picture is more like the person",
        "nearly a copy of a training photo (similarity 0.98)",
    ]


def test_a_picture_without_her_face_is_never_kept():
    lost, none = ranked([(1, "face", ""), (2, "original", "no face was found")], [[face(0.5, CORNER)], []], keep=4)
    assert (lost["kept"], lost["reason"]) == (0, "no face of the person was found")
    assert (none["kept"], none["reason"]) == (0, "no face was found")


def test_without_a_judges_scale_its_column_is_empty():
    (row,) = portrait_rows(
        table((1, "face", "")), [[face(0.5)]], PERSON._replace(judge_scale=None), {"place": {"wall": 1}}, 0.95
    )
    assert row["judge_identity"] == "" and row["kept"] == 1
