"""Measure what the demonstration's base model can draw, and whether a LoRA on it can learn and overfit a person.

    python tools/bench_base.py [--base resources/base] [--sheet SHEET.png]

The workflow's pipeline draws 256 pictures at fixed seeds, and its detector and recogniser measure them. Then the
workflow trains ava twice: for 400 steps, and for far too many. The last line says how many of five targets are met. The
models are fetched into results/models first. On two cores the program takes at least ten minutes.
"""

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd
import torch
import yaml
from tqdm import tqdm

from bench_faces import MODELS, ROOT, hardware
from likeness.captions.wording import DARK, NEUTRAL, SMILE
from likeness.core.pinned_models import CLIP_VOCABULARY, fetch_models, model_path
from likeness.drawing.sampling import Cell, draw_pictures, load_pipeline
from likeness.faces.detection import Detector
from likeness.faces.identity import Recogniser, similarity
from likeness.models import base_model
from likeness.photos import images

SIDE = 128  # px
NOUNS = ["woman", "man", "old man", "child"]
# Words of the captions, each with the test whether a measured face follows the word.
WORDS = {
    "smiling": lambda face: face["smile"] >= SMILE,
    "neutral expression": lambda face: face["smile"] <= NEUTRAL,
    "wearing glasses": lambda face: face["glasses"] is True,
    "dark background": lambda face: face["background"] is not None and face["background"] <= DARK,
}
# The seeds for each noun and word, and for each noun without a word: 256 pictures.
SEEDS = range(12)
PLAIN_SEEDS = range(100, 116)
SAMPLE = {"negative_prompt": "", "steps": 25, "guidance_scale": 3.0, "clip_skip": 1, "batch_size": 16}

FACES, OBEDIENCE = 0.9, 0.8  # shares
DIVERSITY = 0.05  # allowed excess of the pictures' mean similarity over that of people drawn by the face generator
LIKENESS = 0.6  # share of the similarity between the person's own photos
STEPS, TOO_MANY_STEPS = 400, 4000
# Four times the demonstration's first learning rate and twice its batch size. The demonstration does not use them: from
# the second epoch on the class would be drawn as the person too, and there would be nothing to choose.
RATE, BATCH = 4e-3, 8
TOO_FAST = 5  # factor on the learning rate of the run that overfits
WORSE = 0.05  # least loss of the prompt score by overfitting


class Target(NamedTuple):
    name: str
    result: str
    limit: str
    met: bool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", type=Path, default=ROOT / "resources/base")
    parser.add_argument("--sheet", type=Path, help="a picture of some of the 256")
    args = parser.parse_args()
    fetch_models(MODELS)
    detector, recogniser = Detector(MODELS), Recogniser(MODELS)
    pictures = drawn_pictures(args.base)
    if args.sheet:
        save_sheet([picture for _, picture in pictures], args.sheet)
    rows = []
    for cell, picture in tqdm(pictures, desc="measured", unit="picture"):
        faces = detector.faces(picture)
        measurements = (
            {"embedding": recogniser.embedding(picture, faces[0]), **json.loads(faces[0]["attributes"])}
            if faces
            else {}
        )
        rows.append({"word": cell.kind, "noun": cell.prompt, "face": bool(faces), **measurements})
    targets = [faces_target(rows), obedience_target(rows), diversity_target(rows, detector, recogniser)]
    targets += likeness_targets(args.base)
    print(hardware())
    for target in targets:
        print(f"{'met ' if target.met else 'not '} {target.name}: {target.result} (target: {target.limit})")
    print(f"targets met: {sum(target.met for target in targets)} of {len(targets)}")


def drawn_pictures(base: Path) -> list[tuple[Cell, np.ndarray]]:
    """The pictures as (cell, uint8 RGB). The kind of a cell is the word in its prompt."""
    with tempfile.TemporaryDirectory() as cache:
        about = prepared_base(base, Path(cache))
        cells = [
            Cell(0.0, f"photo of a {noun}" + (f", {word}" if word else ""), word, seed)
            for word, seeds in [*((word, SEEDS) for word in WORDS), ("", PLAIN_SEEDS)]
            for noun, seed in itertools.product(NOUNS, seeds)
        ]
        pipeline = load_pipeline(about, None, torch.device("cpu"))
        images = tqdm(
            draw_pictures(pipeline, cells, SAMPLE, (SIDE, SIDE)), total=len(cells), desc="drawn", unit="picture"
        )
        return [(cell, np.asarray(image)) for cell, image in images]


def prepared_base(base: Path, folder: Path) -> dict:
    """Write base.json of a model into `folder`, and load it."""
    merge_list = model_path(MODELS, CLIP_VOCABULARY)
    description = base_model.diffusers_folder(str(base.resolve()), None, [ROOT], merge_list, folder)
    (folder / "base.json").write_text(json.dumps(base_model.manifest(base.name, description, folder)))
    return base_model.load_manifest(folder / "base.json")


def faces_target(rows: Sequence[dict]) -> Target:
    share = np.mean([row["face"] for row in rows])
    return Target("a face is found", f"{share:.1%} of {len(rows)}", f"{FACES:.0%}", share >= FACES)


def obedience_target(rows: Sequence[dict]) -> Target:
    """The word that is followed least decides. A word that cannot be measured counts as not followed."""
    shares = {
        word: np.mean([row["face"] and bool(obeyed(row)) for row in rows if row["word"] == word])
        for word, obeyed in WORDS.items()
    }
    result = ", ".join(f"{word} {share:.0%}" for word, share in shares.items())
    return Target("words are obeyed", result, f"{OBEDIENCE:.0%} each", min(shares.values()) >= OBEDIENCE)


def diversity_target(rows: Sequence[dict], detector: Detector, recogniser: Recogniser) -> Target:
    """Compared with people that the generator of the training data drew, one picture each."""
    people = [*(ROOT / "resources/strangers").glob("*.jpg"), *(ROOT / "resources/calibration").glob("*/0.jpg")]
    photos = [images.read_photo(path) for path in people]
    people_similarity = mean_similarity([recogniser.embedding(photo, detector.faces(photo)[0]) for photo in photos])
    pictures_similarity = mean_similarity([row["embedding"] for row in rows if row["face"] and not row["word"]])
    return Target(
        "mean similarity of two pictures without words",
        f"{pictures_similarity:.3f}",
        f"{people_similarity:.3f} + {DIVERSITY}",
        pictures_similarity <= people_similarity + DIVERSITY,
    )


def mean_similarity(embeddings: Sequence[np.ndarray]) -> float:
    return float(np.mean([similarity(a, b) for a, b in itertools.combinations(embeddings, 2)]))


def likeness_targets(base: Path) -> list[Target]:
    """Train ava with the workflow in two runs: a good one, and one with ten times the steps at five times the rate."""
    config = yaml.safe_load((ROOT / "config.yaml").read_text()) | {"base_model": str(base.resolve())}
    # Class preservation is off, because it would prevent the overfitting that is measured.
    config["train"] |= {"preserve_class": 0.0, "train_text_encoder": False, "rank": 16, "alpha": 8}
    config["train"] |= {"max_train_steps": STEPS, "epochs": 4, "learning_rate": RATE, "batch_size": BATCH}
    # Half of the batch size takes half of the time and overfits as well.
    overdone = {"max_train_steps": TOO_MANY_STEPS, "learning_rate": TOO_FAST * RATE, "batch_size": BATCH // 2}
    config["runs"] = {"portrait": {}, "overdone": {"train": overdone}}
    config["sample"] |= {"weights": [1.0], "seeds": [1, 2, 3, 4]}
    with tempfile.TemporaryDirectory() as folder:
        run_workflow(Path(folder), config)
        portrait, overdone = (last_epoch(Path(folder) / f"results/ava/{run}/scores.tsv") for run in config["runs"])
    likeness = portrait.identity_raw.mean() / portrait.ceiling.iloc[0]
    result = (
        f"{portrait.identity_raw.mean():.2f}, {likeness:.0%} of her photos' (identity {portrait.identity.mean():.2f})"
    )
    scores = portrait.prompt_score.mean(), overdone.prompt_score.mean()
    return [
        Target(f"similarity after {STEPS} steps at weight 1", result, f"{LIKENESS:.0%}", likeness >= LIKENESS),
        Target(
            f"prompts after {TOO_MANY_STEPS} steps at {TOO_FAST} times the rate",
            f"{scores[1]:.2f} instead of {scores[0]:.2f}",
            f"{WORSE} less",
            scores[0] - scores[1] >= WORSE,
        ),
    ]


def run_workflow(folder: Path, config: dict, *targets: str) -> None:
    """Run the workflow in a folder with the configuration `config`."""
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    command = ["snakemake", "--snakefile", ROOT / "Snakefile", "--cores", "all", "--directory", folder, *targets]
    subprocess.run([sys.executable, "-m", *command, "--configfile", folder / "config.yaml"], check=True)


def last_epoch(scores: Path) -> pd.DataFrame:
    table = pd.read_csv(scores, sep="\t")
    return table[(table.epoch == table.epoch.max()) & (table.kind == "near")]


def save_sheet(pictures: Sequence[np.ndarray], path: Path) -> None:
    """Sixteen pictures a row, every fourth of them."""
    shown = pictures[::4]
    rows = [np.concatenate(shown[start : start + 16], axis=1) for start in range(0, len(shown), 16)]
    cv2.imwrite(str(path), np.concatenate(rows)[:, :, ::-1])


if __name__ == "__main__":
    main()
