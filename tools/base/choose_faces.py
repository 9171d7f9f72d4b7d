"""Choose the drawn faces for the base model's training, without faces that are like the demonstration's people.

    python tools/base/choose_faces.py FACES MODELS [--threads 2]

FACES is the folder of draw_faces.py and name_faces.py, MODELS the folder of scripts/fetch_models.py. The program writes
FACES/faces.tsv, with a row for each picture that has exactly one face which is like nobody in resources/people.
"""

import argparse
import sys
import threading
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from likeness.core import cli, manifests  # noqa: E402
from likeness.faces.detection import Detector  # noqa: E402
from likeness.faces.identity import Recogniser, similarity  # noqa: E402
from likeness.photos import images  # noqa: E402

COLUMNS = ["face", "noun", "age", "nearest"]
# The threshold of tools/calibrate_identity.py for single pictures of such people. The similarity of ava's own photos to
# her mean is at least 0.63; that of the twelve strangers is at most 0.42.
SAME_PERSON = 0.45


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("faces", type=Path)
    parser.add_argument("models", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    thread_data = threading.local()
    loading = threading.Lock()

    def measured(image: np.ndarray) -> tuple[list[dict], np.ndarray | None]:
        if not hasattr(thread_data, "models"):
            with loading:
                thread_data.models = Detector(args.models), Recogniser(args.models)
        detector, recogniser = thread_data.models
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

    single_faces = [
        row for _, row in cli.map_in_threads(compared, names, args.threads, desc="faces", unit="face") if row
    ]
    chosen = [row for row in single_faces if row["nearest"] < SAME_PERSON]
    manifests.write_table(args.faces / "faces.tsv", chosen, COLUMNS)
    nearest = max(row["nearest"] for row in chosen)
    print(f"{len(names)} faces, {len(names) - len(single_faces)} of them without exactly one face")
    left_out = len(single_faces) - len(chosen)
    print(f"{left_out} left out because they are like one of the {len(people)} people of the demonstration")
    print(f"{len(chosen)} kept, with a similarity of at most {nearest} (limit {SAME_PERSON})")


if __name__ == "__main__":
    main()
