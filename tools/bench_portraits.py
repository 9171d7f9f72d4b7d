"""Measure how much of the person's likeness the face pass brings into full-body scenes.

    python tools/bench_portraits.py [--folder FOLDER] [--scenes N] [--table TABLE.md]

The scenes (full_body_scenes.py) show strangers from head to foot, with faces of 42 to 98 px. The workflow trains the
demonstration once. Its LoRA, at weight 1, makes ava of each stranger:

- plain: the scene as it is
- face: the face pass on it, at several strengths
- hires: enlarged by 1.5 and redrawn in tiles at strength 0.35
- hires + face: then the face pass

They are compared with plain portraits of the same checkpoint. Both recognisers measure identity (0: a stranger, 1: her
photos). SFace chose the checkpoint and chooses the strength; dlib judges. A picture in which the face is not found
counts as 0. The 95 % intervals resample the people of the scenes and each one's scenes, because two scenes of one
stranger are alike.

FOLDER keeps the results and every picture, so that a stopped comparison can be resumed. The last line is the judge's
mean identity after the face pass, at the strength that SFace finds better, as a share of the portraits'.
"""

import argparse
import tempfile
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import yaml
from tqdm import tqdm

from bench_base import ROOT, run_workflow
from bench_faces import hardware
from full_body_scenes import SCENES, WOMEN, scene
from likeness.choosing.recognisers import Recognisers, measurement_cache
from likeness.choosing.scores import read_scores
from likeness.config.sections import Sample
from likeness.core.errors import LikenessError
from likeness.core.manifests import checked_files, read_table
from likeness.core.provenance import canonical
from likeness.faces.faces_of_picture import box_of, face_at
from likeness.models.base_model import load_manifest
from likeness.photos.images import png_bytes, read_photo
from likeness.portraits import portrait_scores
from likeness.portraits.portrait_tables import DRAWN
from likeness.portraits.redraw import Redrawing, redrawing
from likeness.portraits.scenes import SceneDrawing, drawn_stages, hires_pictures
from likeness.portraits.studio import FaceOfPicture, Person, Studio, person, picture_row, studio_cache

HIRES, HIRES_STRENGTH = 1.5, 0.35  # those of the default scene full_body
STRENGTHS = (0.4, 0.6, 0.75, 1.0)  # the defaults of face_strength in a scene and of strength in a place, and higher
AFTER_HIRES = 0.75
WEIGHT = 1.0
FIRST_SEED = 301  # no other comparison drew with these seeds, and nothing was chosen with them
PORTRAIT, PLAIN, HIRES_STAGE = "portraits", "plain", "hires"
FACE = {strength: f"face at {strength:g}" for strength in STRENGTHS}
HIRES_AND_FACE = f"hires + face at {AFTER_HIRES:g}"
RECOGNISERS = {"SFace": "identity", "dlib": "judge_identity"}
DRAWS = 5000  # of the bootstrap: the ends of an interval then vary by less than 0.01


class Demonstration(NamedTuple):
    """The demonstration's configuration, and the folder of its results."""

    config: dict[str, Any]
    results: Path

    @property
    def run(self) -> Path:
        return self.results / "ava/portrait"

    @property
    def settings(self) -> dict[str, Any]:
        return Sample(**self.config["sample"]).model_dump() | {"clip_skip": 1}

    def ava(self) -> Person:
        best = self.run / "best"
        files = best / "choice.json", best / "ava_portrait.safetensors", self.results / "ava/crops.tsv"
        return person("ava", self.config["subjects"]["ava"], *files)._replace(weight=WEIGHT)

    def studio(self) -> Studio:
        args = Namespace(cache=self.results.parent / ".cache/drawn", models=self.results / "models", weights=[])
        items = studio_cache(args, str(ROOT / "scripts/draw_scene.py"))
        base, tile = load_manifest(self.results / "base.json"), 2 * self.config["resolution"]
        return Studio(items, base, args.models, self.settings, (tile, None))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--scenes", type=int, default=SCENES, choices=range(2, SCENES + 1), metavar="N")
    parser.add_argument("--table", type=Path, help="a Markdown file for the table")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        demonstration = trained((args.folder or Path(temporary)).resolve())
        measured = measurements(demonstration, drawn(demonstration, args.scenes))
    text, (strength, ratio) = markdown(measured), best_strength(measured)
    print(f"{hardware()}\n\n{text}")
    if args.table:
        args.table.write_text(text)
    print(f"best strength of the face pass by SFace: {strength:g}")
    print(f"identity with the face pass over a portrait: {ratio:.3f}")


def trained(folder: Path) -> Demonstration:
    """The demonstration in `folder`. Its workflow runs only if there is no chosen checkpoint yet."""
    config = yaml.safe_load((ROOT / "config.yaml").read_text())
    demonstration = Demonstration(config, folder / "results")
    if not (demonstration.run / "best/choice.json").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        run_workflow(folder, config, "results/ava/portrait/best/choice.json")
    return demonstration


def drawn(demonstration: Demonstration, count: int) -> list[dict[str, Any]]:
    """The rows of a table (DRAWN) with each of `count` scenes in all stages, and as many portraits. `image` is the
    picture's file, and `source` of a scene is the woman in it."""
    studio, ava, resolution = demonstration.studio(), demonstration.ava(), demonstration.config["resolution"]
    seeds = range(FIRST_SEED, FIRST_SEED + count)
    plain = demonstration.settings | {"prompt": "photo of {subject}", "scene_weight": WEIGHT, "seeds": [*seeds]}
    plain |= {"width": None, "height": None, "hires": 1, "face_strength": 0}
    rows = []
    for seed, stages in drawn_stages(SceneDrawing(studio, ava, plain, resolution, [])):
        rows.append(row_of(stages[-1].picture, PORTRAIT, seed, PORTRAIT))
    scenes = [scene(number) for number in range(count)]
    women = [WOMEN[number % len(WOMEN)].split("/")[1] for number in range(count)]
    originals = [studio.items.get(lambda: png_bytes(image), "original", image.tobytes()) for image, _ in scenes]  # noqa: B023
    body = plain | {"hires": HIRES, "hires_strength": HIRES_STRENGTH, "hires_upscaler": "Lanczos"}
    body |= dict(zip(("width", "height"), scenes[0][0].shape[1::-1], strict=True))
    large = hires_pictures(SceneDrawing(studio, ava, body, resolution, []), originals, seeds)
    for woman, seed, original, picture in zip(women, seeds, originals, large, strict=True):
        rows += [row_of(original, woman, seed, PLAIN), row_of(picture, woman, seed, HIRES_STAGE)]
    passes = [(1.0, originals, strength, stage) for strength, stage in FACE.items()]
    for factor, pictures, strength, stage in [*passes, (HIRES, large, AFTER_HIRES, HIRES_AND_FACE)]:
        how = redrawing(studio.settings, prompt=ava.prompt("photo of {subject}"), strength=strength)
        places = [[factor * length for length in drawn.boxes[0]] for drawn in scenes]
        shown = list(zip(women, seeds, pictures, places, strict=True))
        rows += face_rows(studio, ava, how, resolution, stage, shown)
    return rows


def face_in(rows: Sequence[Mapping[str, Any]], place: tuple[float, float]) -> Mapping[str, Any] | None:
    """The face at a place in px; None if the redrawing left no face there."""
    try:
        return face_at(rows, place) if rows else None
    except LikenessError:
        return None


def face_rows(
    studio: Studio, ava: Person, how: Redrawing, resolution: int, stage: str, shown: Sequence[tuple[Any, ...]]
) -> list[dict[str, Any]]:
    """The rows of pictures after the face pass; `shown` are (woman, seed, picture, box of her face in px)."""
    faces = [
        face_in(studio.faces(picture), (x + width / 2, y + height / 2))
        for _, _, picture, (x, y, width, height) in shown
    ]
    wanted = [
        FaceOfPicture(picture, face, seed) for (_, seed, picture, _), face in zip(shown, faces, strict=True) if face
    ]
    redrawn = iter(studio.with_faces(wanted, ava, how, resolution))
    return [
        row_of(next(redrawn) if face else picture, woman, seed, stage, canonical(box_of(face) if face else box))
        for (woman, seed, picture, box), face in zip(shown, faces, strict=True)
    ]


def row_of(picture: Path, source: str, seed: int, stage: str, box: str = "") -> dict[str, Any]:
    """A row of DRAWN for a picture of the cache."""
    about = {"kind": "scene", "name": "body", "source": source, "seed": seed, "stage": stage, "image": str(picture)}
    empty = dict.fromkeys(DRAWN, "")
    return empty | picture_row(picture.read_bytes(), read_photo(picture), **about, box=box)


def measurements(demonstration: Demonstration, rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The drawn rows with both identities: of the same face in all stages of a scene, and 0 where it is not found."""
    results, models = demonstration.results, demonstration.results / "models"
    items = measurement_cache(results.parent / ".cache/measured", models, str(ROOT / "scripts/score_portraits.py"))
    recognisers = Recognisers(models)

    def faces(path: Path, content: str) -> list[portrait_scores.MeasuredFace]:
        item = items.get(lambda: portrait_scores.faces_bytes(read_photo(path), *recognisers.all), content)
        return portrait_scores.read_faces(item)

    crops = read_table(results / "ava/crops.tsv")
    crops["image"] = checked_files(results / "ava", crops["crop"], crops["sha256"], "crop_faces")
    ava = portrait_scores.measured_person(crops, faces, read_scores(demonstration.run / "scores.tsv"))
    found = [faces(Path(row["image"]), row["pixels"]) for row in tqdm(rows, desc="measured", unit="picture")]
    keep = {"scene": {"body": 1}}
    # Nothing is ranked here, so the similarity of copies has no limit.
    table = pd.DataFrame(portrait_scores.portrait_rows(pd.DataFrame(rows), found, ava, keep, copy_limit=np.inf))
    identities = {name: table[name].fillna(0).astype(float) for name in RECOGNISERS.values()}
    return table.assign(found=table["identity"].notna(), **identities)


def stage_values(measured: pd.DataFrame, stage: str, recogniser: str) -> list[np.ndarray]:
    """The identities at a stage by one recogniser: an array for each person in the scenes, or one for each portrait."""
    rows = measured[measured["stage"] == stage]
    column = RECOGNISERS[recogniser]
    groups = rows["seed"] if stage == PORTRAIT else rows["source"]
    return [values.to_numpy() for _, values in rows[column].groupby(groups)]


def resampled_means(people: Sequence[np.ndarray]) -> np.ndarray:
    """Means of DRAWS bootstrap samples: people are drawn with replacement, and of each the values of as many scenes as
    there are."""
    rng = np.random.default_rng(0)

    def mean() -> float:
        picked = [people[i] for i in rng.integers(len(people), size=len(people))]
        return float(np.concatenate([rng.choice(values, len(values)) for values in picked]).mean())

    return np.array([mean() for _ in range(DRAWS)])


def share_of_portrait(measured: pd.DataFrame, stage: str, recogniser: str) -> tuple[float, np.ndarray]:
    """The mean identity at a stage over that of the portraits, and the same of bootstrap samples of both."""
    stage_people, portraits = (stage_values(measured, name, recogniser) for name in (stage, PORTRAIT))
    # The order of the portraits' draws is turned: equal generators must not pair a sample of each.
    samples = resampled_means(stage_people) / resampled_means(portraits)[::-1]
    return float(np.concatenate(stage_people).mean() / np.concatenate(portraits).mean()), samples


def best_strength(measured: pd.DataFrame) -> tuple[float, float]:
    """The strength of the face pass that SFace finds most like the person, and the judge's share of a portrait's."""
    by_sface = {strength: share_of_portrait(measured, stage, "SFace")[0] for strength, stage in FACE.items()}
    best = max(by_sface, key=by_sface.__getitem__)
    return best, share_of_portrait(measured, FACE[best], "dlib")[0]


def markdown(measured: pd.DataFrame) -> str:
    columns = [*RECOGNISERS, *(f"{name}, of a portrait's" for name in RECOGNISERS)]
    lines = [f"| picture | face found | {' | '.join(columns)} |", "|---|" + "---|" * (len(columns) + 1)]
    for stage in (PLAIN, *FACE.values(), HIRES_STAGE, HIRES_AND_FACE, PORTRAIT):
        rows = measured[measured["stage"] == stage]
        cells = [f"{rows['found'].sum()} of {len(rows)}"]
        for name, column in RECOGNISERS.items():
            cells.append(interval(rows[column].mean(), resampled_means(stage_values(measured, stage, name))))
        for name in RECOGNISERS:
            cells.append("1" if stage == PORTRAIT else interval(*share_of_portrait(measured, stage, name)))
        lines.append(f"| {stage} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def interval(value: float, samples: np.ndarray) -> str:
    low, high = np.percentile(samples, [2.5, 97.5])
    return f"{value:.2f} ({low:.2f} to {high:.2f})"


if __name__ == "__main__":
    main()
