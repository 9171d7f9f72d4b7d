"""Find and measure the faces in every photo: one row per face, one row too for a photo without any."""

import json
import os
from functools import cache
from pathlib import Path

from likeness import cli, files, images, models, provenance
from likeness.errors import LikenessError
from likeness.faces import FACE_COLUMNS, Detector
from likeness.identity import Recogniser, encode_embedding

COLUMNS = ["photo", "sha256", "width", "height", "phash", "error", "face", *FACE_COLUMNS, "embedding"]
MODELS = [
    models.FACE_DETECTION_SHORT_RANGE,
    models.FACE_DETECTION_FULL_RANGE,
    models.FACE_LANDMARKER,
    models.FACE_RECOGNITION_SFACE,
]


def main() -> None:
    args = cli.arguments(__doc__, "photos*", "models", "cache", "faces")
    hashes = json.loads(models.model_path(args.models, "models.json").read_text())
    item_cache = files.ItemCache(args.cache, provenance.code_digest(Path(__file__)), *(hashes[name] for name in MODELS))

    @cache
    def loaded() -> tuple[Detector, Recogniser]:
        return Detector(args.models), Recogniser(args.models)

    rows = []
    for photo in cli.progress(sorted(args.photos), desc="faces", unit="photo"):
        about = dict.fromkeys(COLUMNS, "") | {"photo": os.path.relpath(photo, args.faces.parent)}
        try:
            about["sha256"] = sha256 = provenance.file_sha256(photo)
        except OSError as error:
            rows.append(about | {"error": f"the file cannot be opened: {error.strerror}"})
            continue
        item = item_cache.get(lambda photo=photo: provenance.canonical(_faces(photo, *loaded())).encode(), sha256)
        rows += [about | row for row in json.loads(item.read_bytes())]
    files.write_table(args.faces, sorted(rows, key=lambda row: (row["photo"], row["face"] or 0)), COLUMNS)
    cli.say(item_cache.summary())


def _faces(photo: Path, detector: Detector, recogniser: Recogniser) -> list[dict]:
    """The rows of one photo, without its name: the same picture under another name is not looked at again."""
    try:
        image = images.read_photo(photo)
    except LikenessError as error:
        return [{"error": str(error)}]
    about = {"width": image.shape[1], "height": image.shape[0], "phash": images.perceptual_hash(image)}
    rows = [
        {**about, "face": i, **row, "embedding": encode_embedding(recogniser.embedding(image, row))}
        for i, row in enumerate(detector.faces(image))
    ]
    return rows or [about]


if __name__ == "__main__":
    cli.run(main)
