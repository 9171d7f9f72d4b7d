"""A run on disk with artificial scores, so that the right choice is known. Several tests use it."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from likeness.choosing import selection
from likeness.choosing.scoring import COLUMNS
from likeness.core.files import write_atomic
from likeness.core.manifests import write_json, write_table
from likeness.core.provenance import SCRIPTS, file_sha256
from likeness.drawing.infotext import UsedLora, infotext
from likeness.drawing.marking import marked_png
from likeness.faces.curation import PHOTO_COLUMNS

PROMPTS = ("photo of ohwx woman", "photo of ohwx woman smiling, dark background")
CONFIG = {
    "subject_name": "ava",
    "run_name": "portrait",
    "subject": {"trigger": "ohwx", "class_noun": "woman", "consent": "synthetic"},
    "train": {
        **{"rank": 16, "batch_size": 2, "gradient_accumulation_steps": 1},
        **{"max_train_steps": 40, "epochs": 4, "repeats": None},
    },
}
UNTRAINED = ("photo of a woman, portrait", "photo of a woman")
SELECT = {"beta": 2.0, "bootstrap": 2000, "confidence": 0.95, "seed": 0}

# The ways of training images: enlarged, enlarged but refused by the identity guard, or large enough.
REFUSED = "Real-ESRGAN changed the face (similarity 0.41, below 0.6), so Lanczos was used"
ENLARGED = {
    "01": {"method": "realesrgan", "scale": 1.33, "similarity": 0.97, "detail": ""},
    "02": {"method": "realesrgan", "scale": 1.33, "similarity": 0.91, "detail": ""},
    "03": {"method": "lanczos", "scale": 1.33, "similarity": 0.41, "detail": REFUSED},
}
AS_IT_IS = {"method": "lanczos", "scale": 1.0, "similarity": "", "detail": ""}


def made_scores(
    identity: Callable[[int, float], float],
    *,
    epochs: int = 4,
    weights: Sequence[float] = (0.6, 0.8, 1.0),
    prompts: Sequence[str] = PROMPTS,
    seeds: Sequence[int] = (1, 2, 3, 4),
    prompt_score: Callable[[int, float], float] = lambda epoch, weight: 1.0,
    noise: float = 0.0,
    gate: Callable[[int, float], str] = lambda epoch, weight: "",
) -> pd.DataFrame:
    """One row per picture of kind "near". Epoch 0 is the base model with identity 0. Except for a tenth of it, `noise`
    is the same in every cell, like pictures from the same seed."""
    rng = np.random.default_rng(1)
    shared = {(p, s): rng.normal() for p in prompts for s in seeds}
    rows = []
    for epoch, weight in [(0, 0.0), *((e, w) for e in range(1, epochs + 1) for w in weights)]:
        for prompt in prompts:
            for seed in seeds:
                level = identity(epoch, weight) + noise * (shared[prompt, seed] + 0.1 * rng.normal()) if epoch else 0.0
                rows.append(
                    {
                        "epoch": epoch, "weight": weight, "prompt": prompt, "kind": "near", "seed": seed,
                        "image": "", "sha256": "", "face_found": 1,
                        "identity": level, "identity_raw": level, "judge_identity": level, "copy": 0.5,
                        "prompt_score": prompt_score(epoch, weight) if epoch else 1.0,
                        "gate": gate(epoch, weight) if epoch else "", "prompt_detail": "smile 0.80 (base 0.90)",
                        "floor": 0.1, "ceiling": 0.7, "floor_from": "base model and strangers",
                        "faces": 1, "second_identity": "", "sharpness": 0.5, "yaw": 0.0, "pitch": 5.0,
                    }
                )  # fmt: skip
    return pd.DataFrame(rows, columns=COLUMNS)


def made_untrained(identity: Callable[[int, float], float], **options) -> pd.DataFrame:
    """Rows of pictures from prompts without the trigger, with a given identity."""
    return made_scores(identity, prompts=UNTRAINED, **options).assign(kind="untrained")


def write_run(folder: Path, scores: pd.DataFrame, side: int = 64, photos: Sequence[Path] = ()) -> pd.DataFrame:
    """Write sample tables, pictures (`photos` in turn, or one flat colour each) and scores.tsv into `folder`."""
    scores = scores.copy()
    for epoch, rows in scores.groupby("epoch"):
        samples = []
        for index, row in rows.iterrows():
            name = f"{epoch:06d}/{row['weight']:g}-{prompt_number(scores, row)}-{row['seed']}.png"
            pixels = _pixels(index, side, photos)
            data = marked_png(pixels, made_infotext(row, side))
            write_atomic(folder / "samples" / name, data)
            sha256 = hashlib.sha256(data).hexdigest()
            scores.loc[index, ["image", "sha256"]] = f"samples/{name}", sha256
            samples.append(
                {
                    **row[["epoch", "weight", "prompt", "kind", "seed"]],
                    "image": name,
                    "sha256": sha256,
                    "pixels": hashlib.sha256(pixels.tobytes()).hexdigest(),
                }
            )
        columns = ["epoch", "weight", "prompt", "kind", "seed", "image", "sha256", "pixels"]
        write_table(folder / "samples" / f"{epoch:06d}.tsv", samples, columns)
    write_table(folder / "scores.tsv", scores.to_dict("records"), COLUMNS)
    return scores


def made_infotext(row: pd.Series, side: int) -> str:
    """The infotext of a picture, as sample_checkpoint writes it."""
    settings = {"negative_prompt": "", "steps": 12, "sampler": "Euler a", "guidance_scale": 7.0, "clip_skip": 1}
    lora = UsedLora(f"ava_portrait-{row['epoch']:06d}", row["weight"], "0123456789ab") if row["epoch"] else None
    return infotext(row["prompt"], row["seed"], (side, side), settings, {"model": "demo", "digest": "d" * 64}, lora)


def made_choice(scores: pd.DataFrame, lora: str = "ava_portrait.safetensors") -> dict:
    """choice.json of these scores, for a LoRA file that does not exist."""
    bases = dict.fromkeys(("trained_on", "drawn_with"), {"model": "demo", "digest": "3" * 64})
    of_lora = {"lora": lora, "sha256": "5" * 64}
    return selection.choose(scores, **SELECT) | of_lora | bases | {"clip": None, "leak_limit": 0.5}


def write_models(folder: Path, epochs: int) -> Path:
    """Write files that stand for LoRAs, and models.json."""
    entries = []
    for epoch in range(1, epochs + 1):
        file = f"models/ava_portrait-{epoch:06d}.safetensors"
        write_atomic(folder / file, f"lora of epoch {epoch}")
        entries.append({"epoch": epoch, "file": file, "sha256": file_sha256(folder / file)})
    write_atomic(folder / "models.json", json.dumps({"run": "portrait", "total_steps": 8, "epochs": entries}))
    return folder / "models.json"


def build_report(run: Path, report: Path, gallery: Sequence[str] = ()) -> None:
    """Write the report of a run with its subject in `subject`, as the rule does; its folder has the same name.
    `gallery` is the page of its portraits, if it has one."""
    inputs = {"metrics": run / "log" / "metrics.tsv", "scores": run / "scores.tsv", "choice": run / "choice.json"}
    _build(
        "build_report.py",
        run,
        inputs | {"report": report, "folder": report.with_suffix("")},
        "--samples",
        *sorted((run / "samples").glob("*.tsv")),
        "--gallery",
        *gallery,
    )


def build_dataset_page(run: Path, page: Path) -> None:
    """Write the page of its data set."""
    _build("build_dataset_page.py", run, {"page": page})


def _build(script: str, run: Path, files: dict[str, Path], *more: object) -> None:
    tables = {name: run / "subject" / f"{name}.tsv" for name in ("photos", "crops", "upscaled", "captions")}
    tables |= {"dataset": run / "subject" / "dataset.json"}
    options = [part for name, path in (tables | files).items() for part in (f"--{name}", path)]
    options += [*more, "--config", json.dumps(CONFIG), "--threads", "2", "--cache", run / "cache"]
    subprocess.run([sys.executable, SCRIPTS / script, *options], check=True)


def prompt_number(scores: pd.DataFrame, row: pd.Series) -> int:
    return list(dict.fromkeys(scores["prompt"])).index(row["prompt"])


def _pixels(index: int, side: int, photos: Sequence[Path]) -> np.ndarray:
    if photos:
        return np.asarray(Image.open(photos[index % len(photos)]).convert("RGB").resize((side, side)))
    return np.full((side, side, 3), (40 + 7 * index % 160, 90, 200 - 5 * index % 150), np.uint8)


def write_subject(folder: Path, ava: Path) -> None:
    """The subject's manifests with real photos: 00 to 05 to train on (01 and 02 enlarged, 03 refused, 04 padded and
    with a long caption), 06 and 07 held out, two dropped for two reasons, one no photo."""
    names = [f"{n:02d}" for n in range(10)]
    for name in names:
        write_atomic(folder / "photos" / f"{name}.jpg", (ava / f"{name}.jpg").read_bytes())
    write_atomic(folder / "photos" / "letter.jpg", "Dear diary")
    photos = [_photo(folder, f"{n}.jpg", "train" if n < "06" else "heldout", **_face(int(n))) for n in names[:8]]
    photos[5]["others"] = "[[400.0,20.0,60.0,80.0]]"
    duplicate = {"reason": "near_duplicate", "detail": "Nearly the same picture as 07.jpg."}
    stranger = {"reason": "other_person", "detail": "Not the same person.", "similarity": "0.12"}
    photos.append(_photo(folder, "08.jpg", "dropped", **_face(8) | duplicate))
    photos.append(_photo(folder, "09.jpg", "dropped", **_face(9) | stranger))
    photos.append(_photo(folder, "letter.jpg", "dropped", reason="unreadable", detail="The file is not a picture."))
    write_table(folder / "photos.tsv", photos, PHOTO_COLUMNS)

    crops, upscaled, captions, images = [], [], [], []
    for name, photo in zip(names, photos[:8], strict=False):
        pixels = np.asarray(Image.open(folder / photo["photo"]).convert("RGB"))
        padded = 0.08 if name == "04" else 0.0
        crop = {**photo, "crop": f"crops/{name}.png", "side": 96, "source_side": 400, "padded": padded}
        _write_png(folder / crop["crop"], pixels, 96)
        crops.append(crop | {"sha256": file_sha256(folder / crop["crop"])})
        image, text = f"upscaled/{name}.png", f"photo of ohwx woman, {name} <b>bold</b>"
        _write_png(folder / image, pixels, 128)
        upscaled.append({**crop, "image": image, **ENLARGED.get(name, AS_IT_IS)})
        upscaled[-1]["sha256"] = file_sha256(folder / image)
        warning = "84 tokens, of which the base model reads 77" if name == "04" else ""
        about = {"text": text, "source": "template", "tokens": 9, "detail": warning}
        captions.append({"photo": photo["photo"], "fate": photo["fate"], "image": image, **about})
        if photo["fate"] == "train":
            hashes = {"sha256": "1" * 64, "caption_sha256": "2" * 64}
            images.append({"name": name, "image": image, "caption": text, "size": [128, 128], **hashes})
    measured = ["source_side", "face_fraction", "yaw", "pitch", "roll", "brightness", "attributes"]
    write_table(folder / "crops.tsv", crops, ["photo", "fate", "crop", "sha256", "side", "padded", *measured])
    columns = ["photo", "fate", "crop", "image", "sha256", "method", "scale", "similarity", "detail"]
    write_table(folder / "upscaled.tsv", upscaled, [*columns, *measured])
    captions.append({"fate": "not read", "caption": "../photos/<i>.txt", "detail": "belongs to no photo that is used"})
    columns = ["photo", "fate", "image", "caption", "text", "source", "tokens", "detail"]
    write_table(folder / "captions.tsv", captions, columns)
    dataset = {"subject": "ohwx woman", "resolution": 128, "repeats": 4, "arithmetic": "4 x 6", "images": images}
    dataset |= {"heldout": [], "regularisation": []}
    write_json(folder / "dataset.json", dataset)
    base = {"model": "demo", "path": "demo", "family": "sd15", "prediction_type": "epsilon", "digest": "3" * 64}
    write_json(folder / "base.json", base | {"sha256": {"unet/model.safetensors": "4" * 64}})


def write_metrics(folder: Path, epochs: int, text_encoder: bool = False, steps: int = 50) -> Path:
    """Write metrics with a falling loss, a validation loss that rises again from the middle of the run, a preservation
    loss that rises and is measured at every second step, and a cosine schedule."""
    rng, total, rows = np.random.default_rng(2), steps * epochs, []
    for step in range(1, total + 1):
        epoch, last = 1 + (step - 1) // steps, step % steps == 0
        done, before = step / total, (step - 1) / total
        rows.append(
            {
                "epoch": epoch, "step": step, "loss": 0.14 - 0.04 * done + rng.normal(0, 0.03),
                "preservation": 4e-4 * done if step % 2 == 0 else "",
                "lr": 5e-5 * (1 + np.cos(np.pi * before)),
                "lr_text_encoder": 2.5e-5 * (1 + np.cos(np.pi * before)) if text_encoder else "",
                "validation_loss": 0.13 + 0.08 * (done - 0.5) ** 2 if last else "", "gradient_norm": 0.2,
            }
        )  # fmt: skip
    columns = ["epoch", "step", "loss", "preservation", "lr", "lr_text_encoder", "validation_loss", "gradient_norm"]
    write_table(folder / "log" / "metrics.tsv", rows, columns)
    return folder / "log" / "metrics.tsv"


def _photo(folder: Path, name: str, fate: str, **measured: object) -> dict:
    sha256 = file_sha256(folder / "photos" / name)
    return dict.fromkeys(PHOTO_COLUMNS, "") | {"photo": f"photos/{name}", "sha256": sha256, "fate": fate} | measured


def _face(n: int) -> dict:
    """The measurements of a face in 512 x 512 px. With each number it is turned further to the right, in more light."""
    attributes = {"background": None if n == 3 else 0.1 + 0.08 * n, "light_side": 0.1 * n - 0.3, "glasses": None}
    box = {"x": 128.0, "y": 102.0, "w": 256.0, "h": 320.0}
    turn = {"yaw": 6.0 * n, "pitch": 5.0, "roll": 0.0, "brightness": 0.25 + 0.05 * n, "face_fraction": 0.6}
    return {"width": 512, "height": 512, **box, **turn, "attributes": json.dumps(attributes), "similarity": 0.7}


def _write_png(path: Path, pixels: np.ndarray, side: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).resize((side, side)).save(path)
