"""Choose the drawn faces that the base model learns: who is like the people of the demonstration is left out.

    python tools/base/choose_faces.py FACES MODELS [--threads 2]

FACES is what draw_faces.py and name_faces.py wrote, MODELS what scripts/fetch_models.py fetched. Writes
FACES/faces.tsv: one row per picture with exactly one face that is like nobody in resources/people.
"""

import argparse
import sys
import threading
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from likeness import cli, images, manifests  # noqa: E402
from likeness.faces import Detector  # noqa: E402
from likeness.identity import Recogniser, similarity  # noqa: E402

COLUMNS = ["face", "noun", "age", "nearest"]
# What tools/calibrate_identity.py found for single pictures of such people. The least that one of ava's own photos has
# to her mean is 0.63, and the most that one of the twelve strangers has is 0.42.
SAME_PERSON = 0.45


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("faces", type=Path)
    parser.add_argument("models", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    mine = threading.local()
    loading = threading.Lock()

    def measured(image: np.ndarray) -> tuple[list[dict], np.ndarray | None]:
        if not hasattr(mine, "models"):
            with loading:
                mine.models = Detector(args.models), Recogniser(args.models)
        detector, recogniser = mine.models
        rows = detector.faces(image)
        return rows, recogniser.embedding(image, rows[0]) if rows else None

    def person(folder: Path) -> np.ndarray:
        photos = [measured(images.read_photo(path))[1] for path in sorted(folder.glob("[0-9][0-9].jpg"))]
        mean = np.mean(photos, axis=0)
        return mean / np.linalg.norm(mean)

    people = [person(folder) for folder in sorted((ROOT / "resources/people").iterdir()) if folder.is_dir()]
    names = manifests.read_table(args.faces / "names.tsv").to_dict("records")
    names = [name for name in names if (args.faces / f"{name['face']}.jpg").exists()]

    def compared(name: dict) -> dict | None:
        rows, embedding = measured(cv2.imread(str(args.faces / f"{name['face']}.jpg"))[:, :, ::-1])
        if len(rows) != 1:
            return None
        return name | {"nearest": round(max(similarity(embedding, other) for other in people), 3)}

    found = [row for _, row in cli.mapped(compared, names, args.threads, desc="faces", unit="face") if row]
    kept = [row for row in found if row["nearest"] < SAME_PERSON]
    manifests.write_table(args.faces / "faces.tsv", kept, COLUMNS)
    nearest = max(row["nearest"] for row in kept)
    print(f"{len(names)} faces, {len(names) - len(found)} of them not exactly one face")
    print(f"{len(found) - len(kept)} left out as like one of the {len(people)} people of the demonstration")
    print(f"{len(kept)} kept, the most alike at {nearest} (limit {SAME_PERSON})")


if __name__ == "__main__":
    main()
