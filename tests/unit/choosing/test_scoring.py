"""What a picture is worth: who is on it, in units of the person; whether it obeys; and what keeps it out."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from likeness.choosing.scoring import (
    ClipView,
    Measurement,
    clip_prompt_scores,
    identity_scale,
    measure,
    measurement_bytes,
    prompt_score,
    read_measurement,
    score_rows,
)
from likeness.core.errors import LikenessError
from likeness.core.manifests import read_table, write_table
from likeness.core.provenance import SCRIPTS, file_sha256
from likeness.drawing.faults import is_broken
from likeness.faces.detection import Detector
from likeness.faces.identity import Judge, Recogniser, similarity
from likeness.models.clip import load_clip
from likeness.models.pretrained import write_manifest
from likeness.photos.images import read_photo
from small_pretrained import small_clip

SMILING = "photo of ohwx woman smiling, dark background"


def face(*direction: float, faces: int = 1, **attributes: float) -> Measurement:
    """A picture whose recognisers see a vector; plain numbers stand for a face so that every answer is known."""
    embedding = np.array(direction, np.float32) / np.linalg.norm(direction)
    return Measurement(faces, embedding, embedding, {"yaw": 0.0, **attributes}, False)


def two(first: Measurement, second: Measurement) -> Measurement:
    """Two faces on one picture, the first the larger one."""
    return first._replace(faces=2, second=second.sface)


NO_FACE = Measurement(0, None, None, {}, False)
BROKEN = Measurement(0, None, None, {}, True)
# The person looks along x, the base model's faces along y; the person's own photos are 0.98 alike.
TRAIN, HELDOUT = [face(1, 0.2, 0), face(1, 0, 0.2)], [face(1, 0, 0)]
PERSON, OTHER = face(1, 0, -0.5), face(0, 1, 0)


PICTURE = {"image": "run/a.png", "sha256": "0" * 64}


def scored(
    pictures: dict[tuple[int, float, str], Measurement], strangers=(), folder=Path("run"), **limits
) -> pd.DataFrame:
    """Score rows of {(epoch, weight, kind): picture}, one prompt and seed each, by (epoch, weight, kind)."""
    samples = pd.DataFrame(
        [
            {"epoch": e, "weight": w, "prompt": "photo of a woman", "kind": kind, "seed": 1} | PICTURE
            for e, w, kind in pictures
        ]
    )
    limits = {"copy_limit": 0.95, "leak_limit": 0.5} | limits
    people = {"train": TRAIN, "heldout": HELDOUT, "strangers": strangers}
    rows = score_rows(samples, list(pictures.values()), **people, **limits, folder=folder)
    return pd.DataFrame(rows).set_index(["epoch", "weight", "kind"])


@pytest.fixture(scope="module")
def models(model_files) -> tuple:
    return Detector(model_files), Recogniser(model_files), Judge(model_files)


def test_identity_is_0_at_the_base_model_and_1_at_the_persons_own_photos():
    rows = scored({(0, 0.0, "near"): OTHER, (1, 1.0, "near"): PERSON}, copy_limit=1.0)
    ceiling = 1 / np.hypot(1, 0.2)
    assert rows["floor"].unique().tolist() == [0.0]
    assert rows["ceiling"].unique() == pytest.approx([ceiling], abs=1e-4)
    assert rows.loc[(0, 0.0, "near"), "identity"] == 0
    raw = 1 / np.hypot(1, 0.5)
    assert rows.loc[(1, 1.0, "near"), "identity_raw"] == pytest.approx(raw, abs=1e-4)
    assert rows.loc[(1, 1.0, "near"), "identity"] == pytest.approx(raw / ceiling, abs=1e-3)


def test_the_floor_says_what_it_is_made_from():
    train, heldout = [face(1, 0.1, 0).sface], [face(1, 0, 0).sface]
    near, far = face(1, 1, 0).sface, face(0, 1, 0).sface
    dot = lambda a, b: float(a @ b)  # noqa: E731
    both = identity_scale(train, heldout, [near], [far, far, far], dot)
    assert both.floor == pytest.approx(np.sqrt(0.5) / 2)  # one vote each, however many strangers
    assert both.floor_from == "base model and strangers"
    assert identity_scale(train, heldout, [near], [], dot).floor_from == "base model"
    assert identity_scale(train, heldout, [], [far], dot).floor_from == "strangers"
    none = identity_scale(train, heldout, [], [], dot)
    assert (none.floor, none.floor_from) == (0.0, "nothing: no face")


def test_no_face_is_identity_0_and_a_gate():
    rows = scored({(0, 0.0, "near"): OTHER, (1, 1.0, "near"): NO_FACE})
    row = rows.loc[(1, 1.0, "near")]
    assert (row["face_found"], row["identity"], row["judge_identity"], row["gate"]) == (0, 0, 0, "no_face")
    assert row["identity_raw"] == row["copy"] == ""


@pytest.mark.parametrize(
    ("picture", "gate"),
    [(BROKEN, "broken"), (face(1, 0, 0.5, faces=2), "several_faces"), (face(1, 0.2, 0.01), "copy"), (PERSON, "")],
)
def test_gates(picture, gate):
    assert scored({(0, 0.0, "near"): OTHER, (1, 1.0, "near"): picture}).loc[(1, 1.0, "near"), "gate"] == gate


def test_a_leak_puts_out_the_whole_epoch_at_that_weight_and_nothing_else():
    rows = scored(
        {
            (0, 0.0, "near"): OTHER, (0, 0.0, "untrained"): OTHER,
            (1, 0.6, "near"): PERSON, (1, 0.6, "untrained"): OTHER,
            (1, 1.0, "near"): PERSON, (1, 1.0, "untrained"): PERSON,
            (2, 1.0, "near"): NO_FACE, (2, 1.0, "untrained"): PERSON,
        }
    )["gate"]  # fmt: skip
    assert rows.loc[(1, 0.6, "near")] == ""
    assert rows.loc[(1, 1.0, "near")] == rows.loc[(1, 1.0, "untrained")] == "leak"
    assert rows.loc[(2, 1.0, "near")] == "no_face"  # a picture's own reason comes first
    assert rows.loc[(0, 0.0, "near")] == ""


@pytest.mark.parametrize(
    ("pictures", "gate"),
    [
        ([two(PERSON, OTHER), two(PERSON, OTHER)], ""),
        ([two(PERSON, PERSON), two(PERSON, PERSON)], "leak"),
        ([two(OTHER, OTHER), two(OTHER, PERSON)], ""),  # somebody else alone is no leak
        ([two(OTHER, PERSON), two(PERSON, PERSON)], ""),  # 0 and 0.9: 0.45 on the mean
        ([PERSON, two(PERSON, PERSON)], "leak"),  # one face says nothing about the other
        ([PERSON, PERSON], ""),
    ],
)
def test_two_people_of_whom_both_are_the_person_are_a_leak(pictures, gate):
    samples, shown = [], [OTHER, PERSON, *[two(OTHER, OTHER)] * 2, *pictures]
    cells = [
        (0, 0.0, "near", 1),
        (1, 1.0, "near", 1),
        *((e, float(e), "two_people", s) for e in (0, 1) for s in (1, 2)),
    ]
    for epoch, weight, kind, seed in cells:
        row = {"epoch": epoch, "weight": weight, "prompt": "a woman", "kind": kind, "seed": seed} | PICTURE
        samples.append(row)
    people = {"train": TRAIN, "heldout": HELDOUT, "strangers": []}
    limits = {"copy_limit": 1.0, "leak_limit": 0.5, "folder": Path("run")}
    rows = pd.DataFrame(score_rows(pd.DataFrame(samples), shown, **people, **limits))
    assert set(rows[rows["epoch"] == 1]["gate"]) == {gate}, "two faces are asked for, so they are no gate of their own"
    assert set(rows[rows["epoch"] == 0]["gate"]) == {""}
    assert (rows["second_identity"] != "").tolist() == [picture.second is not None for picture in shown]


def test_photos_that_are_no_more_alike_than_strangers_are_an_error():
    with pytest.raises(LikenessError, match="check that all photos show one person"):
        scored({(0, 0.0, "near"): face(1, 0, 0), (1, 1.0, "near"): PERSON})


def test_a_missing_picture_of_the_base_model_is_an_error():
    with pytest.raises(LikenessError, match="no picture of the base model"):
        scored({(1, 1.0, "near"): PERSON}, strangers=[OTHER])


@pytest.mark.parametrize(
    ("shown", "base", "expected"),
    [
        ({"smile": 0.9, "background": 0.2}, {"smile": 0.9, "background": 0.2}, 1.0),
        ({"smile": 0.1, "background": 0.2}, {"smile": 0.9, "background": 0.2}, 1 - 0.8 / 2),
        ({"smile": 0.9, "background": 0.2}, {"smile": 0.1, "background": 0.2}, 1.0),  # better than the base: no bonus
        ({"smile": 0.9, "background": 0.9}, {"smile": 0.1, "background": 0.2}, 1 - 0.7 / 2),  # nor a substitute
        ({"smile": 0.4}, {"smile": 0.9}, 0.5),  # no background to be seen
    ],
)
def test_prompt_following_is_a_loss_against_the_base_at_the_same_seed(shown, base, expected):
    score, detail = prompt_score(SMILING, face(1, **shown), face(1, **base))
    assert score == pytest.approx(expected)
    assert f"smile {shown['smile']:.2f} (base {base['smile']:.2f})" in detail


def test_a_picture_without_a_face_loses_all_that_the_base_showed():
    assert prompt_score("photo of a woman smiling", NO_FACE, face(1, smile=0.9))[0] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("prompt", "base", "why"),
    [("photo of ohwx woman on the moon", face(1, smile=0.5), "nothing"), (SMILING, NO_FACE, "no face")],
)
def test_what_cannot_be_measured_costs_nothing_and_says_why(prompt, base, why):
    score, detail = prompt_score(prompt, face(1, smile=0.0, background=0.9), base)
    assert score == 1
    assert why in detail


@pytest.mark.parametrize(
    ("prompt", "obeys", "ignores"),
    [
        ("a woman, not smiling", {"smile": 0.0}, {"smile": 1.0}),
        ("a woman with eyes closed", {"eyes_closed": 1.0}, {"eyes_closed": 0.0}),
        ("a woman, bright background", {"background": 1.0}, {"background": 0.0}),
        ("a woman looking left", {"yaw": -30.0}, {"yaw": 30.0}),
        ("a woman looking to the right", {"yaw": 30.0}, {"yaw": -30.0}),
        ("a woman, side view", {"yaw": 60.0}, {"yaw": 0.0}),
        ("a woman looking at the camera", {"yaw": 0.0}, {"yaw": 30.0}),
        ("a woman, head turned to the left", {"yaw": -30.0}, {"yaw": 0.0}),
        ("a woman, head turned to the right", {"yaw": 30.0}, {"yaw": 0.0}),
        ("a woman wearing glasses", {"glasses": 1.0}, {"glasses": 0.0}),
        ("a woman in sunglasses", {"glasses": 1.0}, {"glasses": 0.0}),
        ("a woman without glasses", {"glasses": 0.0}, {"glasses": 1.0}),
        ("close-up of a woman", {"face_fraction": 0.65}, {"face_fraction": 0.45}),
        ("a woman, black and white photo", {"monochrome": 1.0}, {"monochrome": 0.0}),
    ],
)
def test_words_of_the_prompt_and_what_they_ask_for(prompt, obeys, ignores):
    assert prompt_score(prompt, face(1, **ignores), face(1, **obeys))[0] == pytest.approx(0)
    assert prompt_score(prompt, face(1, **obeys), face(1, **obeys))[0] == 1


def test_broken_pictures_are_told_from_photos(ava):
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    blocks = 255 * np.random.default_rng(0).integers(0, 2, (8, 8, 3), dtype=np.uint8).repeat(16, 0).repeat(16, 1)
    assert all(is_broken(image) for image in (noise, blocks, np.zeros_like(noise), np.full_like(noise, 130)))
    photos = [Image.open(path).convert("RGB") for path in sorted(ava.glob("[0-2][0-9].jpg"))]
    assert not any(is_broken(np.asarray(photo.resize((side, side)))) for photo in photos for side in (64, 512))


def test_a_measurement_survives_the_cache(ava, models, tmp_path):
    before = measure(read_photo(ava / "00.jpg"), *models)
    (tmp_path / "item").write_bytes(measurement_bytes(before))
    after = read_measurement(tmp_path / "item")
    assert (after.sface == before.sface).all()
    assert (after.dlib == before.dlib).all()
    assert after[3:5] == before[3:5] and after.second is before.second is None
    assert measurement_bytes(NO_FACE) == measurement_bytes(NO_FACE)


def test_real_photos_are_measured_for_what_they_show(ava, models):
    assert measure(read_photo(ava / "no_face.jpg"), *models).faces == 0
    pair = measure(read_photo(ava / "two_people.jpg"), *models)
    assert pair.faces == 2
    portrait = measure(read_photo(ava / "00.jpg"), *models)
    alike = [similarity(portrait.sface, face) for face in (pair.sface, pair.second)]
    assert max(alike) > 0.5 > 0.3 > min(alike), "one of the two is ava"
    (row,) = models[0].faces(read_photo(ava / "00.jpg"))
    assert [portrait.attributes[name] for name in ("yaw", "pitch", "sharpness")] == [
        row[name] for name in ("yaw", "pitch", "sharpness")
    ]
    height = Image.open(ava / "00.jpg").height
    assert portrait.attributes["face_fraction"] == pytest.approx(row["face_height"] / height)
    assert measure(np.zeros((128, 128, 3), np.uint8), *models) == BROKEN


def score_checkpoint(run: Path, model_files: Path, strangers: list[Path], clip: Path | None = None) -> str:
    options = ["--samples", *sorted(run.glob("samples/*.tsv")), "--crops", run / "crops.tsv", "--strangers", *strangers]
    options += ["--models", model_files, "--cache", run / "cache", "--scores", run / "scores.tsv"]
    if clip:
        write_manifest(run / "clip.json", clip)
        options += ["--clip", run / "clip.json"]
    select = {"copy_limit": 0.95, "leak_limit": 0.5}
    config = json.dumps({"select": select, "subject": {"trigger": "ohwx", "class_noun": "woman"}})
    command = [sys.executable, SCRIPTS / "score_checkpoint.py", "--config", config, *options]
    return subprocess.run(command, capture_output=True, text=True).stdout


@pytest.fixture
def photographed_run(tmp_path, ava) -> Path:
    """A run whose 'samples' are photos: somebody else (base), the person (epoch 1), a training photo (epoch 2)."""
    crops = [(f"{n:02d}.jpg", "train" if n < 6 else "heldout") for n in range(9)]
    rows = [{"photo": n, "fate": f, "crop": f"crops/{n}", "sha256": file_sha256(ava / n)} for n, f in crops]
    (tmp_path / "crops").mkdir()
    for name, _ in crops:
        shutil.copy(ava / name, tmp_path / "crops" / name)
    write_table(tmp_path / "crops.tsv", rows, ["photo", "fate", "crop", "sha256"])
    for epoch, photo in enumerate(("somebody_else.jpg", "10.jpg", "00.jpg")):
        folder = tmp_path / "samples" / f"{epoch:06d}"
        folder.mkdir(parents=True)
        for kind, source in (("near", photo), ("untrained", "no_face.jpg")):
            Image.open(ava / source).convert("RGB").resize((384, 384)).save(folder / f"{kind}.png")
        samples = [
            {
                "epoch": epoch, "weight": float(epoch > 0), "prompt": "photo of ohwx woman", "kind": kind, "seed": 1,
                "image": f"{folder.name}/{kind}.png", "sha256": file_sha256(folder / f"{kind}.png"),
                "pixels": hashlib.sha256(Image.open(folder / f"{kind}.png").tobytes()).hexdigest(),
            }
            for kind in ("near", "untrained")
        ]  # fmt: skip
        write_table(folder.with_suffix(".tsv"), samples, list(samples[0]))
    return tmp_path


def test_the_script_tells_the_person_from_somebody_else_and_a_copy_from_a_likeness(photographed_run, model_files):
    first = score_checkpoint(photographed_run, model_files, [])
    assert first.splitlines()[-1] == "items: 13 computed, 2 reused"  # 9 photos, 3 samples, 3 times one empty scene
    table = (photographed_run / "scores.tsv").read_bytes()
    rows = read_table(photographed_run / "scores.tsv").set_index(["epoch", "kind"])
    subject = rows.xs("near", level="kind")
    assert [Path(image).is_file() for image in (photographed_run / subject["image"])] == [True] * 3
    identity, judge = subject["identity"].astype(float), subject["judge_identity"].astype(float)
    assert identity["0"] == judge["0"] == 0
    assert identity["1"] > 0.6
    assert judge["1"] > 0.6
    assert subject["gate"].to_dict() == {"0": "", "1": "", "2": "copy"}
    assert set(rows.xs("untrained", level="kind")["gate"]) == {"no_face"}

    again = score_checkpoint(photographed_run, model_files, [])
    assert again.splitlines()[-1] == "items: 0 computed, 15 reused"
    assert (photographed_run / "scores.tsv").read_bytes() == table


def test_strangers_take_part_in_the_floor(photographed_run, model_files, ava):
    log = score_checkpoint(photographed_run, model_files, [ava / "somebody_else.jpg"])
    assert "(from base model and strangers)" in log


def test_a_sample_that_was_changed_is_not_scored(photographed_run, model_files):
    shutil.copy(photographed_run / "samples/000001/near.png", photographed_run / "samples/000002/near.png")
    log = score_checkpoint(photographed_run, model_files, [])
    assert "000002/near.png is missing or was changed" in log
    assert "snakemake --cores all --forcerun sample_checkpoint" in log
    assert not (photographed_run / "scores.tsv").exists()


# --- CLIP ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clip_model(tmp_path_factory, model_files) -> Path:
    """What its cosines are can be computed again."""
    return small_clip(tmp_path_factory.mktemp("clip") / "small", model_files)


def cosine(folder: Path, image: np.ndarray, words: str) -> float:
    """By CLIPModel's own forward pass, which scales it."""
    import torch
    from transformers import CLIPModel, CLIPProcessor

    model, processor = CLIPModel.from_pretrained(folder).eval(), CLIPProcessor.from_pretrained(folder)
    with torch.no_grad():
        logits = model(**processor(text=[words], images=[image], return_tensors="pt")).logits_per_image
        return (logits / model.logit_scale.exp()).item()


def test_cosines_are_those_of_clips_own_forward_pass(clip_model, ava):
    model, image = load_clip(clip_model, "cpu"), read_photo(ava / "00.jpg")
    for words in ("photo of woman", "word " * 100):
        expected = cosine(clip_model, image, "word " * 75 if len(words) > 99 else words)
        assert float(model.of_picture(image) @ model.of_words(words)) == pytest.approx(expected, abs=1e-5)


def clip_view(*cosines: float) -> list[np.ndarray]:
    """Pictures whose cosine to the prompt, an axis, is known."""
    return [np.array([c, np.sqrt(1 - c * c)], np.float32) for c in cosines]


def test_the_clip_score_is_a_loss_in_units_of_the_prompt():
    """The base model's pictures of the prompt reach 0.30, its pictures of the class 0.20: a loss of 0.05 is a half."""
    rows = [(0, "near", 1), (0, "near", 2), (0, "untrained", 1), (0, "untrained", 2), (1, "near", 1), (1, "near", 2)]
    prompts = {"near": "a woman on the moon", "untrained": "a woman"}
    samples = pd.DataFrame([{"epoch": e, "kind": k, "prompt": prompts[k], "seed": s} for e, k, s in rows])
    axis = np.array([1, 0], np.float32)
    view = ClipView(clip_view(0.28, 0.32, 0.21, 0.19, 0.23, 0.40), {prompt: axis for prompt in prompts.values()})
    scores = [score for score, _ in clip_prompt_scores(samples, view)]
    assert scores == pytest.approx([1, 1, 1, 1, 0.5, 1], abs=1e-5), "no merit above the base model"
    assert "CLIP 0.230 (base 0.280, class alone 0.200)" in clip_prompt_scores(samples, view)[4][1]

    lost = view._replace(pictures=clip_view(0.28, 0.32, 0.21, 0.19, 0.05, 0.22))
    assert [score for score, _ in clip_prompt_scores(samples, lost)][4:] == pytest.approx([0, 0], abs=1e-5)
    plain = view._replace(pictures=clip_view(0.21, 0.21, 0.20, 0.20, 0.1, 0.1))
    score, detail = clip_prompt_scores(samples, plain)[4]
    assert score == 1 and "nothing that CLIP sees" in detail, "0.01 apart is the noise of CLIP"


def test_with_clip_the_script_scores_by_it_and_looks_at_each_picture_once(photographed_run, model_files, clip_model):
    first = score_checkpoint(photographed_run, model_files, [], clip_model)
    assert first.splitlines()[-1] == "items: 18 computed, 4 reused"  # as without, 4 pictures and the one prompt
    rows = read_table(photographed_run / "scores.tsv").set_index(["epoch", "kind"])
    for epoch in ("0", "1", "2"):
        image = read_photo(photographed_run / rows.loc[(epoch, "near"), "image"])
        found = float(rows.loc[(epoch, "near"), "prompt_detail"].split()[1])
        assert found == pytest.approx(cosine(clip_model, image, "photo of woman"), abs=1e-3), "without the trigger"
    again = score_checkpoint(photographed_run, model_files, [], clip_model)
    assert again.splitlines()[-1] == "items: 0 computed, 22 reused"


def test_a_folder_that_is_no_clip_says_what_is_expected(small_base):
    with pytest.raises(LikenessError, match="select.clip .* expected a CLIP model such as openai/clip-vit-large"):
        load_clip(small_base / "text_encoder", "cpu")
