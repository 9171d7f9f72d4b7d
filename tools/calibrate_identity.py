"""Calibrate curate.same_person on known people: which shares of own photos and of others' photos pass each threshold.

    python tools/calibrate_identity.py [--people FOLDER]

FOLDER has one folder of photos per person. By default the people of resources/ are used, who do not exist. Their photos
differ more from each other than those of real people, so real people are easier to separate.
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

from likeness.config.sections import Curate  # noqa: E402
from likeness.core.manifests import read_table  # noqa: E402
from likeness.faces.curation import curate  # noqa: E402
from likeness.faces.identity import decode_embedding  # noqa: E402
from likeness.faces.subject import similarity_to_mean  # noqa: E402
from likeness.photos.file_kinds import photo_files  # noqa: E402

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
    """faces.tsv of all people, made by the workflow's program, with a column `person`."""
    photos = [photo for folder in sorted(people.iterdir()) if folder.is_dir() for photo in photo_files(folder)]
    scripts = ROOT / "scripts"
    fetch = [scripts / "fetch_models.py", "--models", models, "--manifest", models / "models.json"]
    with tempfile.TemporaryDirectory() as temporary:
        faces = Path(temporary) / "faces.tsv"
        detect = [scripts / "detect_faces.py", "--photos", *photos, "--models", models, "--cache", f"{temporary}/cache"]
        for command in (fetch, [*detect, "--faces", faces]):
            subprocess.run([sys.executable, *map(str, command)], check=True, stdout=subprocess.DEVNULL)
        table = read_table(faces)
    table = table[table["face"] == "0"].reset_index(drop=True)  # the largest face of each photo
    return table.assign(person=[Path(photo).parent.name for photo in table["photo"]])


def similarities(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """The similarities that curation compares with same_person: of every photo to the mean of its person's other
    photos, and of every photo to the mean of each other person."""
    vectors = np.stack([decode_embedding(text) for text in table["embedding"]])
    photos = table["photo"].to_numpy()
    own, others = [], []
    for person in table["person"].unique():
        is_own = (table["person"] == person).to_numpy()
        similarity = similarity_to_mean(vectors, is_own, photos)
        own.append(similarity[is_own])
        others.append(similarity[~is_own])
    return np.concatenate(own), np.concatenate(others)


def folders(table: pd.DataFrame) -> tuple[int, int, int, int]:
    """Curate one folder per person, which also has one photo of everybody else. Returns the numbers of own photos that
    were dropped as somebody else's, of others' photos that were kept, and of all own and all others' photos."""
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
    """The threshold at which the share of own photos that are lost equals the share of others' photos that pass."""
    thresholds = np.linspace(0, 1, 1001)
    lost = np.array([(own < threshold).mean() for threshold in thresholds])
    let_in = np.array([(others >= threshold).mean() for threshold in thresholds])
    at = np.argmin(np.abs(lost - let_in))
    return float((lost[at] + let_in[at]) / 2)


if __name__ == "__main__":
    main()
