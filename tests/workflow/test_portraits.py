"""Portraits: scenes and places are drawn with the chosen LoRA, measured, and drawn again only if they changed.

The base model of the tests draws no faces. So faces are in the pictures of the places, which are photos.
"""

import json
from html import unescape
from pathlib import Path

import cv2
import numpy as np
import pytest

from face_photos import on_wall, turned
from infotext_reader import parameters, text_chunks
from likeness.core.manifests import read_table
from likeness.drawing.marking import TRAINED_ALGORITHMIC_MEDIA, read_infotext
from likeness.photos.images import read_photo
from project import CONFIG, ROOT, Project

RUN = "results/ava/portrait"
SCENES = {
    "plain": {"prompt": "photo of {subject}", "seeds": [5]},
    "large": {"prompt": "photo of {subject} in a park", "height": 96, "count": 2, "hires": 1.5, "scene_weight": 0},
}
SHOWN = {"build_gallery": 1, "build_report": 1, "build_index": 1}
SMALL = 61  # px of a portrait whose face is 40 px high
PLACES = {"wall": {"pictures": "walls", "consent": "synthetic", "count": 2, "keep": 1, "strength": 0.5}}


def portrait_of(name: str) -> np.ndarray:
    return read_photo(ROOT / "resources/people/ava" / name)


def write_picture(path: Path, picture: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True)
    cv2.imwrite(str(path), np.ascontiguousarray(picture[..., ::-1]))


@pytest.fixture(scope="module")
def project(finished_project, tmp_path_factory) -> Project:
    """A finished project with scenes and a place, whose pictures have one face, five, one lying on its side, one of
    40 px, and none; one is damaged, and one is a broken link."""
    project = finished_project.copied(tmp_path_factory.mktemp("portraits") / "finished")
    project.fork_jobs = True
    one = on_wall(portrait_of("05.jpg"), 200, 300, 400)
    small = on_wall(portrait_of("05.jpg"), SMALL, 300, 400)
    walls = {"a_one": one, "b_five": np.hstack([one, one[:, ::-1]] * 2 + [one]), "c_side": turned(one, 90)}
    walls |= {"d_small": small}
    walls["e_nobody"] = on_wall(read_photo(ROOT / "resources/people/ava/no_face.jpg"), 200, 300, 400)
    for name, picture in walls.items():
        write_picture(project.folder / f"walls/{name}.png", picture)
    (project.folder / "walls/f_damaged.png").write_bytes((project.folder / "walls/a_one.png").read_bytes()[:3000])
    (project.folder / "walls/f_gone.png").symlink_to("nowhere.png")
    project.configure(portraits={"scenes": SCENES}, places=PLACES)
    outcome = project.run()
    assert outcome.jobs == {"draw_scene": 2, "place_face": 1, "score_portraits": 1, **SHOWN}, (
        "nothing is trained or chosen again"
    )
    return project


@pytest.fixture(scope="module")
def table(project):
    return read_table(project.folder / RUN / "portraits.tsv")


def rows_of(table, name: str, source: str = ""):
    return table[(table["name"] == name) & (table["source"] == source)]


def picture(project: Project, row) -> np.ndarray:
    return read_photo(project.folder / RUN / row["image"])


def test_a_scene_has_its_size_its_seeds_and_its_stages(project, table):
    plain, large = rows_of(table, "plain"), rows_of(table, "large")
    assert list(zip(plain["seed"], plain["stage"], strict=True)) == [("5", "plain")]
    assert list(large["stage"]) == ["plain", "hires"] * 2 and sorted(large["seed"]) == ["1", "1", "2", "2"]
    sizes = [picture(project, row).shape[:2] for _, row in large.iterrows()]
    assert sizes == [(96, 64), (144, 96)] * 2
    assert list(large["final"]) == ["0", "1", "0", "1"]
    assert set(large.loc[large["final"] == "1", "detail"]) == {"no face was found, so none was redrawn"}


def test_a_scene_at_weight_0_is_what_the_base_model_draws(project, table):
    """Its infotext calls no LoRA, and the trained LoRA changes the other scene's picture."""
    large, plain = rows_of(table, "large").iloc[0], rows_of(table, "plain").iloc[0]
    texts = [read_infotext(project.folder / RUN / row["image"]) for row in (large, plain)]
    assert "<lora:" not in texts[0] and "<lora:ava_portrait:" in texts[1]
    choice = json.loads((project.folder / RUN / "best/choice.json").read_text())
    assert f"<lora:ava_portrait:{choice['weight']:g}>" in texts[1]


def test_other_programs_read_how_a_picture_was_made(project, table):
    hires = rows_of(table, "large").iloc[1]
    fields = parameters(read_infotext(project.folder / RUN / hires["image"]))
    assert fields["Size"] == "64x96" and fields["Hires upscale"] == "1.5" and fields["Hires upscaler"] == "R-ESRGAN 4x+"
    face = rows_of(table, "wall", "a_one.png").iloc[1]
    fields = parameters(read_infotext(project.folder / RUN / face["image"]))
    assert fields["Denoising strength"] == "0.5" and fields["Lora hashes"].startswith("ava_portrait: ")
    assert not any(name.startswith("ADetailer") for name in fields), "the face alone was drawn, by inpainting"
    for row in (hires, face):
        assert TRAINED_ALGORITHMIC_MEDIA in text_chunks(project.folder / RUN / row["image"])["XML:com.adobe.xmp"]


@pytest.mark.parametrize("name", ["a_one", "b_five", "c_side", "d_small"])
def test_a_face_is_put_into_a_picture_whose_other_pixels_stay(project, table, name):
    rows = rows_of(table, "wall", f"{name}.png")
    assert list(rows["stage"]) == ["original", "face"] * 2
    original = read_photo(project.folder / f"walls/{name}.png")
    assert (picture(project, rows.iloc[0]) == original).all()
    changed = (picture(project, rows.iloc[1]) != original).any(axis=-1)
    x, y, w, h = json.loads(rows.iloc[1]["box"])
    down, across = np.nonzero(changed)
    assert changed.sum() > 0.8 * w * h
    # The ellipse around the head has 1.8 times the face's height and width.
    assert abs(across - x - w / 2).max() < 0.95 * max(w, h) and abs(down - y - h / 2).max() < 0.95 * max(w, h)


def test_a_picture_without_a_face_is_a_result_with_a_sentence(project, table):
    rows = rows_of(table, "wall", "e_nobody.png")
    assert list(rows["stage"]) == ["original", "original"] and set(rows["kept"]) == {"0"}
    assert set(rows["reason"]) == {"no face was found, so none was redrawn"}
    log = (project.folder / "results/logs/ava/portrait/place_face-wall.log").read_text()
    assert "e_nobody.png: no face was found, so none was redrawn" in log


def test_pictures_that_cannot_be_read_are_named_where_a_user_looks(project, table):
    page = unescape((project.folder / RUN / "portraits.html").read_text())
    for name, why in (("f_damaged.png", "left out: "), ("f_gone.png", "left out: is no file that can be read")):
        (row,) = rows_of(table, "wall", name).to_dict("records")
        assert row["kept"] == "0" and row["image"] == "" and row["reason"].startswith(why)
        assert f"{name}: {row['reason']}" in page


def test_a_picture_whose_face_was_lost_is_not_shown_first_and_says_so(table):
    """This base model draws noise where the face was."""
    final = table[(table["final"] == "1") & (table["source"] == "a_one.png")]
    assert sorted(final["rank"]) == ["1", "2"] and set(final["kept"]) == {"0"}
    assert set(final["reason"]) == {"no face of the person was found"} and set(final["identity"]) == {""}


def test_the_original_face_of_the_person_is_measured_as_hers(table):
    """The photo on the wall is one of hers, so the original has about the identity 1 by both recognisers."""
    original = rows_of(table, "wall", "a_one.png").iloc[0]
    assert float(original["identity"]) > 0.6 and float(original["judge_identity"]) > 0.6


def test_a_changed_scene_alone_is_drawn_again(project):
    other = {"plain": SCENES["plain"], "large": SCENES["large"] | {"hires_upscaler": "Lanczos"}}
    project.configure(portraits={"scenes": other}, places=PLACES)
    outcome = project.run()
    assert outcome.jobs == {"draw_scene": 1, "score_portraits": 1, "build_gallery": 1}
    assert outcome.computed["draw_scene"] == 4, "two hires pictures, and the search for faces in them"
    project.configure(portraits={"scenes": SCENES}, places=PLACES)
    outcome = project.run()
    assert outcome.jobs["draw_scene"] == 1 and outcome.computed["draw_scene"] == 0


def test_how_many_are_shown_first_draws_nothing(project):
    project.configure(portraits={"scenes": SCENES}, places={"wall": PLACES["wall"] | {"keep": 2, "consent": "self"}})
    assert project.run().jobs == {"score_portraits": 1, "build_gallery": 1}


def test_another_picture_of_a_place_leaves_the_others(project):
    write_picture(project.folder / "walls/g_more.png", on_wall(portrait_of("07.jpg"), 200, 300, 400))
    outcome = project.run()
    assert outcome.jobs == {"place_face": 1, "score_portraits": 1, "build_gallery": 1}
    assert outcome.computed["place_face"] == 4, "the picture, its faces, and a drawing from each of two seeds"


def test_an_index_has_the_galleries_that_there_are(project):
    """Also if a gallery appears or goes while another one changes."""
    index = project.folder / "results/index.html"
    assert "ava/portrait/portraits.html" in index.read_text()
    project.configure(portraits={"scenes": {}}, places={})
    assert project.run().jobs == {"build_report": 1, "build_index": 1}
    assert "portraits.html" not in index.read_text()
    project.configure(portraits={"scenes": {"plain": SCENES["plain"]}}, places={})
    project.run()
    assert "ava/portrait/portraits.html" in index.read_text()
    assert project.run().jobs == {}


def test_a_place_without_any_readable_picture_is_a_page_that_says_so(project):
    for path in (project.folder / "walls").iterdir():
        if path.name != "f_damaged.png":
            path.unlink()
    project.configure(portraits={"scenes": {}}, places=PLACES)
    project.run()
    assert "f_damaged.png: left out: " in unescape((project.folder / RUN / "portraits.html").read_text())


def test_two_people_get_two_faces_and_who_found_none_is_not_shown_as_the_other(project):
    write_picture(project.folder / "walls/a_one.png", on_wall(portrait_of("05.jpg"), 200, 300, 400))
    ava = CONFIG["subjects"]["ava"]
    project.configure(
        subjects={"ava": ava, "otto": ava | {"trigger": "sks"}},
        portraits={"scenes": {}},
        places={"wall": PLACES["wall"] | {"faces": {"ava": "largest", "otto": 1}, "count": 1}},
    )
    project.run()
    tables = {name: read_table(project.folder / f"results/{name}/portrait/portraits.tsv") for name in ("ava", "otto")}
    rows = {name: rows_of(found, "wall", "a_one.png").iloc[-1] for name, found in tables.items()}
    assert rows["ava"]["box"] and not rows["otto"]["box"]
    assert rows["otto"]["reason"] == "this face became ava's; otto was not put into the picture"
    assert rows["otto"]["identity"] == "" and rows["otto"]["kept"] == "0" and rows["otto"]["prompt"] == ""
