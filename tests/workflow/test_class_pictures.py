"""Class pictures: other people, as the base model draws them from the captions without the person.

With the base model of the demonstration, because one of random weights draws no faces.
"""

import hashlib
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
from PIL import Image

import draw_class_pictures
from infotext_reader import loras, parameters, text_chunks
from likeness.core.errors import LikenessError
from likeness.core.manifests import read_table, write_table
from likeness.drawing import class_pictures
from likeness.drawing.marking import TRAINED_ALGORITHMIC_MEDIA
from likeness.faces.detection import Detector
from likeness.models.base_model import manifest
from likeness.photos.images import read_photo
from project import CONFIG, ROOT, Project

CAPTIONS = ["a woman, smiling", "a woman, dark background", "a woman, looking at the camera"]
SIDE = 128  # px, what the demonstration's base model was made for


def test_captions_take_turns_and_every_picture_has_a_seed_of_its_own():
    cells = list(class_pictures.candidates(CAPTIONS, 4))
    assert [cell.prompt for cell in cells] == CAPTIONS * 4
    assert len({cell.seed for cell in cells}) == len(cells) == class_pictures.TRIES * 4
    assert [cell.seed - cells[0].seed for cell in cells[::3]] == [0, 1, 2, 3]
    assert {cell.weight for cell in cells} == {0.0}


def test_one_caption_more_or_a_higher_count_leaves_the_other_pictures_as_they_are():
    few, many = (list(class_pictures.candidates(CAPTIONS, count)) for count in (2, 6))
    assert many[: len(few)] == few
    more = class_pictures.candidates(["a woman, outdoors", *CAPTIONS], 4)
    assert [cell for cell in more if cell.prompt in CAPTIONS][: len(few)] == few
    assert list(class_pictures.candidates([*CAPTIONS, CAPTIONS[0]], 2)) == few, "a caption of two photos counts once"


def test_a_picture_that_cannot_be_used_is_drawn_again_from_another_seed():
    asked = []

    def faults(cells) -> list[str]:
        asked.append(len(cells))
        return ["no face" if cell.prompt == CAPTIONS[1] else "" for cell in cells]

    chosen = class_pictures.choose_pictures(CAPTIONS, 6, faults)
    assert [cell.prompt for cell in chosen] == [CAPTIONS[0], CAPTIONS[2]] * 3
    assert asked == [6, 2, 1], "as many as are still wanted"


def test_a_base_model_that_does_not_know_the_class_is_an_error_that_says_what_to_do():
    seen = []

    def faults(cells) -> list[str]:
        seen.extend(cells)
        return ["broken" if cell.prompt == CAPTIONS[0] else "no face" if cell.seed % 3 else "" for cell in cells]

    with pytest.raises(LikenessError) as error:
        class_pictures.choose_pictures(CAPTIONS, 10, faults)
    assert len(seen) == 30
    usable = sum(cell.prompt != CAPTIONS[0] and cell.seed % 3 == 0 for cell in seen)
    said = str(error.value)
    assert f"drew 30 class pictures, of which {usable} can be used and 10 are wanted (broken: 10, no face: " in said
    assert "sample.steps" in said and "regularisation_images" in said and "folder of photos" in said


def test_a_class_picture_shows_one_face(ava, model_files):
    detector = Detector(model_files)
    noise = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    assert class_pictures.fault(noise, detector) == "broken"
    found = {name: class_pictures.fault(read_photo(ava / name), detector) for name in ("03.jpg", "no_face.jpg")}
    assert found == {"03.jpg": "", "no_face.jpg": "no face"}
    face = read_photo(ava / "03.jpg")
    assert class_pictures.fault(np.hstack([face, face[:, ::-1]]), detector) == "several faces"


# --- the script ----------------------------------------------------------------------------------------------------


class Drawing:
    """The captions of some photos, and `draw_class_pictures` in this process: what its rule calls."""

    def __init__(self, folder: Path, model_files: Path, monkeypatch, capsys):
        self.folder, self.models, self.monkeypatch, self.capsys = folder, model_files, monkeypatch, capsys
        (folder / "base.json").write_text(json.dumps(manifest("base", ROOT / "resources/base", folder)))
        self.write_captions("smiling", "dark background")

    def write_captions(self, *said: str) -> None:
        rows = [{"fate": "train", "text": f"ohwx woman, {text}"} for text in said]
        rows.append({"fate": "heldout", "text": "ohwx woman, seen by nobody"})
        write_table(self.folder / "captions.tsv", rows, ["fate", "text"])

    def drawn(self, count: int, **changes) -> tuple[str, list[dict]]:
        """What the log says, and the rows of the table."""
        subject = {"trigger": "ohwx", "class_noun": "woman", "regularisation_images": count}
        sample = {"sampler": "DPM++ 2M Karras", "steps": 4, "guidance_scale": 3, "negative_prompt": "blurred"}
        sample |= {"batch_size": None} | changes
        config = {"subject": subject, "sample": sample, "resolution": SIDE, "clip_skip": 1}
        files = {"captions": "captions.tsv", "base": "base.json", "cache": "cache", "pictures": "drawn.tsv"}
        options = [word for name, file in files.items() for word in (f"--{name}", str(self.folder / file))]
        options += ["--folder", str(self.folder / "drawn"), "--models", str(self.models)]
        options += ["--words", str(ROOT / "resources/identity_words.txt")]
        self.monkeypatch.setattr(sys, "argv", ["draw_class_pictures.py", "--config", json.dumps(config), *options])
        draw_class_pictures.main()
        return self.capsys.readouterr().out, read_table(self.folder / "drawn.tsv").to_dict("records")


@pytest.fixture
def drawing(tmp_path, model_files, monkeypatch, capsys) -> Drawing:
    return Drawing(tmp_path, model_files, monkeypatch, capsys)


def test_every_picture_is_of_its_caption_and_seed_and_says_that_it_was_made_by_ai(drawing):
    _, rows = drawing.drawn(4)
    assert [row["caption"] for row in rows] == ["a woman, smiling", "a woman, dark background"] * 2
    assert len({row["seed"] for row in rows}) == len({row["sha256"] for row in rows}) == 4
    assert sorted(f"drawn/{path.name}" for path in (drawing.folder / "drawn").iterdir()) == [r["image"] for r in rows]
    for row in rows:
        file = drawing.folder / row["image"]
        assert hashlib.sha256(file.read_bytes()).hexdigest() == row["sha256"]
        assert Image.open(file).size == (SIDE, SIDE)
        chunks = text_chunks(file)
        assert TRAINED_ALGORITHMIC_MEDIA in chunks["XML:com.adobe.xmp"]
        said = parameters(chunks["parameters"])
        assert (said["Prompt"], said["Seed"], said["Steps"]) == (row["caption"], row["seed"], "4")
        assert (said["Negative prompt"], said["Size"]) == ("blurred", f"{SIDE}x{SIDE}") and not loras(said["Prompt"])


def test_a_caption_is_drawn_as_the_words_that_it_is(drawing):
    drawing.write_captions("smiling BREAK at home")
    _, (row,) = drawing.drawn(1)
    assert row["caption"] == "a woman, smiling BREAK at home"
    said = parameters(text_chunks(drawing.folder / row["image"])["parameters"])
    assert said["Prompt"] == "a woman, smiling break at home", "which is the same to CLIP"


def test_only_new_pictures_are_drawn(drawing):
    log, first = drawing.drawn(2)
    assert log.splitlines()[-1] == "items: 2 computed, 0 reused"
    log, rows = drawing.drawn(4)
    assert log.splitlines()[-1] == "items: 2 computed, 2 reused" and rows[:2] == first
    assert drawing.drawn(4, batch_size=1)[0].splitlines()[-1] == "items: 0 computed, 4 reused"
    drawing.write_captions("outdoors", "smiling", "dark background")
    log, rows = drawing.drawn(4)
    assert log.splitlines()[-1] == "items: 2 computed, 2 reused", "the new caption's two, and the first of the others"
    assert {(row["caption"], row["seed"]) for row in first} < {(row["caption"], row["seed"]) for row in rows}
    assert drawing.drawn(2, guidance_scale=2)[0].splitlines()[-1] == "items: 2 computed, 0 reused"


def test_a_picture_without_a_face_is_named_in_the_log_and_left_out(drawing):
    """After one step a face is seen in some pictures only."""
    drawing.write_captions("neutral expression, looking at the camera")
    log, rows = drawing.drawn(6, steps=1)
    left_out = re.findall(r"^(.+), seed (\d+): left out: no face$", log, re.M)
    assert left_out and log.splitlines()[-1] == f"items: {6 + len(left_out)} computed, 0 reused"
    assert len(rows) == 6 and not {seed for _, seed in left_out} & {row["seed"] for row in rows}
    again, same = drawing.drawn(6, steps=1)
    assert again.splitlines()[-1] == f"items: 0 computed, {6 + len(left_out)} reused" and same == rows


# --- the workflow: rows of the rerun table (test_reruns.py, whose base model draws no faces) -----------------------

DATASET = "results/ava/dataset.json"
DRAWN = 4


def asking(regularisation: str | None = "generate", images: int = DRAWN) -> dict:
    """The subjects of config.yaml."""
    return {"ava": CONFIG["subjects"]["ava"] | {"regularisation": regularisation, "regularisation_images": images}}


def jobs(outcome) -> set[str]:
    """The rules from the class pictures on that ran."""
    return set(outcome.jobs) & {"draw_class_pictures", "build_dataset"}


def regularisation(project: Project) -> list[dict]:
    return json.loads((project.folder / DATASET).read_text())["regularisation"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, model_files) -> Project:
    """With a finished data set, of which four pictures are of other people."""
    folder = tmp_path_factory.mktemp("class") / "project"
    project = Project(folder, model_files, ROOT / "resources/base")
    project.fork_jobs = True
    project.start_with = {"resolution": SIDE, "sample": {"steps": 4, "guidance_scale": 3}}
    project.configure(**project.start_with, subjects=asking())
    outcome = project.run(DATASET)
    assert jobs(outcome) == {"draw_class_pictures", "build_dataset"}
    assert outcome.computed["draw_class_pictures"] >= DRAWN
    return project


@pytest.fixture
def project(finished, tmp_path) -> Project:
    """A copy for each row."""
    return finished.copied(tmp_path / "project")


def test_the_class_pictures_are_kohyas_regularisation_folder(project):
    rows = read_table(project.folder / "results/ava/class_pictures.tsv").to_dict("records")
    trained = read_table(project.folder / "results/ava/captions.tsv").query("fate == 'train'")
    said = [text.removeprefix("ohwx woman, ") for text in trained["text"]]
    assert {row["caption"].removeprefix("a woman, ") for row in rows} <= set(said)
    reg = project.folder / "results/ava/reg/1_woman"
    assert len(list(reg.iterdir())) == 2 * DRAWN
    for row, item in zip(rows, regularisation(project), strict=True):
        assert (item["caption"], item["sha256"], item["size"]) == (row["caption"], row["sha256"], [SIDE, SIDE])
        laid_out = reg / Path(row["image"]).name
        assert laid_out.with_suffix(".txt").read_text() == row["caption"]
        assert TRAINED_ALGORITHMIC_MEDIA in text_chunks(laid_out)["XML:com.adobe.xmp"], "still marked"
    assert project.run(DATASET).jobs == {}


def test_more_pictures(project):
    before = regularisation(project)
    project.configure(**project.start_with, subjects=asking(images=DRAWN + 2))
    outcome = project.run(DATASET)
    assert jobs(outcome) == {"draw_class_pictures", "build_dataset"}
    assert 2 <= outcome.computed["draw_class_pictures"] < DRAWN
    assert regularisation(project)[:DRAWN] == before and len(regularisation(project)) == DRAWN + 2


def test_another_base_model(project):
    before = regularisation(project)
    shutil.copytree(project.folder / "small_base", project.folder / "other_base")
    (unet,) = (project.folder / "other_base/unet").glob("*.safetensors")
    tensors = safetensors.torch.load_file(unet)
    safetensors.torch.save_file(tensors | {"conv_in.weight": 0.9 * tensors["conv_in.weight"]}, unet)
    project.configure(**project.start_with, subjects=asking(), base_model="other_base")
    outcome = project.run(DATASET)
    assert jobs(outcome) == {"draw_class_pictures", "build_dataset"}
    assert outcome.computed["draw_class_pictures"] >= DRAWN
    assert not {item["sha256"] for item in before} & {item["sha256"] for item in regularisation(project)}


def test_samples_drawn_otherwise_by_a_run(project):
    """All runs share one data set, so only the settings of the top level count."""
    project.configure(**project.start_with, subjects=asking(), runs={"portrait": {"sample": {"steps": 5}}})
    assert project.run(DATASET).jobs == {}


def test_a_caption_written_beside_a_photo(project):
    photo = read_table(project.folder / "results/ava/captions.tsv").query("fate == 'train'")["photo"].iloc[-1]
    text = (project.folder / "results/ava" / photo).with_suffix(".txt")
    text.write_text("ohwx woman, wearing a red hat")
    project.configure(**project.start_with, subjects=asking(images=9))
    outcome = project.run(DATASET)
    drawn = [item["caption"] for item in regularisation(project)]
    assert "a woman, wearing a red hat" in drawn
    assert outcome.computed["draw_class_pictures"] <= 9 - DRAWN + 2, "the other captions' pictures are found again"


def test_without_the_wish_nothing_is_drawn(project):
    project.configure(**project.start_with, subjects=asking(None))
    assert jobs(project.run(DATASET)) == {"build_dataset"}
    assert regularisation(project) == [] == list((project.folder / "results/ava/reg").glob("*/*"))


def test_a_folder_named_generate_is_called_by_its_path(project):
    folder = project.folder / "generate"
    folder.mkdir()
    shutil.copy(ROOT / "resources/strangers/00000.jpg", folder)
    refused = project.run(DATASET, check=False)
    assert refused.status == 1 and "write ./generate to use its photos" in refused.text
    project.configure(**project.start_with, subjects=asking("./generate"))
    assert jobs(project.run(DATASET)) == {"build_dataset"}
    assert [item["caption"] for item in regularisation(project)] == ["woman"]
