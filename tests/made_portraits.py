"""The portraits of a run, made up from photos: portraits.tsv and its pictures, as the rules of portraits write them."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from likeness.core.files import write_atomic
from likeness.core.manifests import write_table
from likeness.core.provenance import file_sha256
from likeness.drawing.infotext import UsedLora, face_pass_pairs, hires_pairs, inpaint_pairs, with_pairs
from likeness.drawing.infotext import infotext as drawing_infotext
from likeness.drawing.marking import marked_png

COLUMNS = (
    *("kind", "name", "source", "seed", "stage", "image", "sha256", "width", "height", "prompt", "negative_prompt"),
    *("box", "detail", "faces", "identity", "judge_identity", "sharpness", "copy", "final", "rank", "kept", "reason"),
)
WIDTH, HEIGHT = 256, 384  # px of a finished picture
BOX = [80, 40, 96, 112]  # the face in it
PROMPT = "photo of ohwx woman, <b>bold</b> & (soft light:1.2)"
FACE_PROMPT = "face of ohwx woman"
LORA = "<lora:ava_portrait:0.8>"
USED = UsedLora("ava_portrait", 0.8, "0123456789ab")
SETTINGS = {"steps": 25, "sampler": "DPM++ 2M Karras", "guidance_scale": 7, "clip_skip": 2, "negative_prompt": "blurry"}
BASE = {"digest": "d" * 64, "model": "models/demo.safetensors"}
PHOTO = "my gar#den & <i>.jpg"  # of the user's


def infotext(seed: int, prompt: str, hires: bool, face: bool) -> str:
    """As draw_scene writes it."""
    text = drawing_infotext(prompt, seed, (128, 192), SETTINGS, BASE, USED)
    if hires:
        text = with_pairs(text, hires_pairs(2, 0.4, "Lanczos"))
    return with_pairs(text, face_pass_pairs(f"{FACE_PROMPT}, close {LORA}", 0.5)) if face else text


def place_infotext(seed: int) -> str:
    """As place_face writes it."""
    text = drawing_infotext(FACE_PROMPT, seed, (WIDTH, HEIGHT), SETTINGS, BASE, USED)
    return with_pairs(text, inpaint_pairs(0.55, []))


def write_portraits(folder: Path, stranger: Path, own: list[Path]) -> Path:
    """Write portraits.tsv and its pictures: a scene with three pictures, of which the first is kept and the last has no
    face; a scene without a face pass; a place with one photo of the user's and two seeds. `stranger` is a photo of the
    face before, `own` are three of the person."""
    rows = []
    for seed, face, rank, reason in ((1, own[0], 2, ""), (2, own[1], 1, ""), (3, None, 3, "no face was found")):
        rows += _scene(folder, "full_body", seed, stranger if face else None, face, rank, reason)
    rows += _scene(folder, "plain & simple", 7, own[2], None, 1, "", passes=("plain",))
    for seed, rank, reason in ((5, 1, ""), (6, 2, "the face is less like the person: 0.41")):
        rows += _place(folder, seed, stranger, own[seed % 2], rank, reason)
    write_table(folder / "portraits.tsv", rows, COLUMNS)
    return folder / "portraits.tsv"


def _scene(folder, name, seed, before, after, rank, reason, passes=("plain", "hires", "face")) -> list[dict]:
    detail = "" if before else "No face was found, so none was redrawn."
    rows = []
    for stage in passes if before else passes[:2]:
        row = _row("scene", name, "", seed, stage, PROMPT)
        scale = 0.5 if stage == "plain" and len(passes) > 1 else 1.0
        pixels = _picture(after if stage == "face" else before, scale)
        identity = 0.9 - 0.05 * rank if stage == "face" else 0.12
        row |= _measured(identity) if before else {"faces": 0, "copy": ""}
        text = infotext(seed, PROMPT, stage != "plain", stage == "face")
        rows.append(row | _written(folder, f"portraits/{name}/{seed:04d}_{stage}.png", pixels, text))
    return _finished(rows, rank, reason, detail)


def _place(folder, seed, before, after, rank, reason) -> list[dict]:
    rows = []
    for stage, photo, identity in (("original", before, 0.05), ("face", after, 0.8 - 0.2 * rank)):
        row = _row("place", "terrace", PHOTO, seed, stage, FACE_PROMPT) | _measured(identity)
        text = place_infotext(seed) if stage == "face" else ""
        rows.append(row | _written(folder, f"places/terrace/{seed:04d}_{stage}.png", _picture(photo, 1.0), text))
    return _finished(rows, rank, reason, "")


def _row(kind: str, name: str, source: str, seed: int, stage: str, prompt: str) -> dict:
    row = {"kind": kind, "name": name, "source": source, "seed": seed, "stage": stage, "final": 0}
    return row | {"prompt": prompt, "negative_prompt": "blurry", "box": json.dumps(BOX) if stage == "face" else ""}


def _measured(identity: float) -> dict:
    return {"faces": 1, "identity": identity, "judge_identity": identity - 0.1, "sharpness": 0.5, "copy": 0.44}


def _finished(rows: list[dict], rank: int, reason: str, detail: str) -> list[dict]:
    rows[-1] |= {"final": 1, "rank": rank, "kept": int(not reason), "reason": reason, "detail": detail}
    return rows


def _written(folder: Path, image: str, pixels: np.ndarray, text: str) -> dict:
    write_atomic(folder / image, marked_png(pixels, text))
    height, width = pixels.shape[:2]
    return {"image": image, "sha256": file_sha256(folder / image), "width": width, "height": height}


def _picture(photo: Path | None, scale: float) -> np.ndarray:
    """A light wall above a dark floor, and the face of a photo in BOX."""
    pixels = np.full((HEIGHT, WIDTH, 3), (196, 190, 180), np.uint8)
    pixels[300:] = (92, 80, 70)
    if photo:
        x, y, w, h = BOX
        with Image.open(photo) as picture:
            pixels[y : y + h, x : x + w] = np.asarray(picture.convert("RGB").crop((96, 64, 416, 437)).resize((w, h)))
    size = (round(WIDTH * scale), round(HEIGHT * scale))
    return np.asarray(Image.fromarray(pixels).resize(size))
