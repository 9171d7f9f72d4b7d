"""Calibrate curate.same_person on people who are known: how many of their own photos and of others' would pass it.

    python tools/calibrate_identity.py [--people FOLDER]

FOLDER holds one folder of photos per person. Without it, the people who do not exist in resources/ are taken; they
drift more from photo to photo than real people do, so that real folders separate better. With your own friends' photos
the table is about real people.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from likeness.config import Curate  # noqa: E402
from likeness.curation import curate, similarity_to_mean  # noqa: E402
from likeness.identity import decode_embedding  # noqa: E402
from likeness.manifests import read_table  # noqa: E402
from likeness.photos import photo_files  # noqa: E402

THRESHOLDS = np.arange(0.30, 0.75, 0.05)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=Path, default=ROOT / "resources/calibration")
    parser.add_argument("--models", type=Path, default=ROOT / "results/models")
    args = parser.parse_args()
    table = detected(args.people, args.models)
    print(f"{len(table)} photos of {table['person'].nunique()} people, {args.people}")
    own, others = similarities(table)
    print("\nsame_person  own photos kept  others' photos let in")
    for threshold in THRESHOLDS:
        print(f"{threshold:11.2f}  {(own >= threshold).mean():14.1%}  {(others >= threshold).mean():20.1%}")
    lost, let_in, own_photos, other_photos = folders(table)
    print(
        f"\nA folder of each person, with one photo of everybody else, curated at the default of "
        f"{Curate().same_person}: {lost} of {own_photos} own photos dropped as somebody else's, "
        f"{let_in} of {other_photos} photos of others kept"
    )
    print(f"equal_error_rate: {equal_error_rate(own, others):.4f}")


def detected(people: Path, models: Path) -> pd.DataFrame:
    """faces.tsv of all people, by the program that the workflow runs, with a column `person`."""
    photos = [photo for folder in sorted(people.iterdir()) if folder.is_dir() for photo in photo_files(folder)]
    scripts = ROOT / "scripts"
    fetch = [scripts / "fetch_models.py", "--models", models, "--manifest", models / "models.json"]
    with tempfile.TemporaryDirectory() as temporary:
        faces = Path(temporary) / "faces.tsv"
        detect = [scripts / "detect_faces.py", "--photos", *photos, "--models", models, "--cache", f"{temporary}/cache"]
        for command in (fetch, [*detect, "--faces", faces]):
            subprocess.run([sys.executable, *map(str, command)], check=True, stdout=subprocess.DEVNULL)
        table = read_table(faces)
    table = table[table["face"] == "0"].reset_index(drop=True)  # the largest one of each photo
    return table.assign(person=[Path(photo).parent.name for photo in table["photo"]])


def similarities(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Cosine of every photo to the mean of its person's other photos, and of every photo to the mean of each other
    person: what curation compares with same_person."""
    vectors = np.stack([decode_embedding(text) for text in table["embedding"]])
    photos = table["photo"].to_numpy()
    own, others = [], []
    for person in table["person"].unique():
        mine = (table["person"] == person).to_numpy()
        similarity = similarity_to_mean(vectors, mine, photos)
        own.append(similarity[mine])
        others.append(similarity[~mine])
    return np.concatenate(own), np.concatenate(others)


def folders(table: pd.DataFrame) -> tuple[int, int, int, int]:
    """Every person as the subject of a folder that also holds one photo of everybody else: own photos dropped as
    somebody else's, others' photos kept, and how many there were of each."""
    settings = SimpleNamespace(**Curate(min_photos=1, near_duplicate=0).model_dump())
    first = table.groupby("person").head(1)
    lost = let_in = others = 0
    for person in table["person"].unique():
        folder = pd.concat([table[table["person"] == person], first[first["person"] != person]])
        people = dict(zip(folder["photo"], folder["person"], strict=True))
        rows = curate(folder, settings)
        lost += sum(people[row["photo"]] == person and row["reason"] == "other_person" for row in rows)
        let_in += sum(people[row["photo"]] != person and row["fate"] != "dropped" for row in rows)
        others += sum(name != person for name in people.values())
    return lost, let_in, len(table), others


def equal_error_rate(own: np.ndarray, others: np.ndarray) -> float:
    """Where as large a share of own photos is lost as of others' is let in."""
    thresholds = np.linspace(0, 1, 1001)
    lost = np.array([(own < threshold).mean() for threshold in thresholds])
    let_in = np.array([(others >= threshold).mean() for threshold in thresholds])
    at = np.argmin(np.abs(lost - let_in))
    return float((lost[at] + let_in[at]) / 2)


if __name__ == "__main__":
    main()
