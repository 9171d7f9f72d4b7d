"""Detect and measure the faces in every photo: one row per face, and one row for a photo without faces."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from likeness.core import cli, files, manifests, pinned_models, provenance
from likeness.core.errors import PhotoError
from likeness.faces.detection import FACE_COLUMNS, Detector
from likeness.faces.identity import Recogniser, aligned_face, encode_aligned_face, encode_embedding
from likeness.photos import decoding, images

COLUMNS = ["photo", "sha256", "width", "height", "phash", "error", "face", *FACE_COLUMNS, "embedding", "aligned"]
MODELS = [
    pinned_models.FACE_DETECTION_SHORT_RANGE,
    pinned_models.FACE_DETECTION_FULL_RANGE,
    pinned_models.FACE_LANDMARKER,
    pinned_models.FACE_RECOGNITION_SFACE,
]


def main() -> None:
    args = cli.arguments(__doc__, "photos*", "no_photos*", "models", "cache", "faces")
    hashes = manifests.read_json(pinned_models.model_path(args.models, "models.json"))
    item_cache = files.ItemCache(args.cache, provenance.code_digest(Path(__file__)), *(hashes[name] for name in MODELS))
    thread, loading = threading.local(), threading.Lock()

    def loaded() -> tuple[Detector, Recogniser]:
        """The models of this thread, loaded at its first call. Only one thread loads at a time, because the constructor
        of Detector silences the output of the whole process."""
        if not hasattr(thread, "models"):
            with loading:
                thread.models = Detector(args.models), Recogniser(args.models)
        return thread.models

    def face_rows(photo: Path) -> list[dict[str, Any]]:
        """The rows of one photo. An error is not cached: the next time the disk may respond, or there may be more
        memory."""
        about = dict.fromkeys(COLUMNS, "") | {"photo": files.seen_from(args.faces.parent, photo)}
        try:
            about["sha256"] = sha256 = decoding.photo_sha256(photo)
            item = item_cache.get(lambda: provenance.canonical(_faces(photo, sha256, loaded)).encode(), sha256)
        except PhotoError as error:
            return [about | {"error": str(error)}]
        return [about | row for row in json.loads(item.read_bytes())]

    photos = sorted([*args.photos, *args.no_photos])
    results = cli.map_in_threads(face_rows, photos, args.threads, desc="faces", unit="photo")
    rows = [row for _, rows in results for row in rows]
    manifests.write_table(args.faces, sorted(rows, key=lambda row: (row["photo"], row["face"] or 0)), COLUMNS)
    cli.say(item_cache.summary())


def _faces(photo: Path, sha256: str, loaded: Callable[[], tuple[Detector, Recogniser]]) -> list[dict[str, Any]]:
    """The rows of one photo without its name, so that the same picture under another name is not measured again. The
    models are loaded after the photo was read. Raises PhotoError if it cannot be read or does not have this hash."""
    with images.photo_in_turn(photo) as image:
        decoding.check_unchanged(photo, sha256)
        detector, recogniser = loaded()
        about = {"width": image.shape[1], "height": image.shape[0], "phash": images.perceptual_hash(image)}
        rows = [
            {
                **(about | {"face": i} | row),
                "embedding": encode_embedding(recogniser.embedding(image, row)),
                "aligned": encode_aligned_face(aligned_face(image, row)),
            }
            for i, row in enumerate(detector.faces(image))
        ]
    return rows or [about]


if __name__ == "__main__":
    cli.run(main)
