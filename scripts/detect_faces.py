"""Find and measure the faces in every photo: one row per face, one row too for a photo without any."""

import json
import threading
from pathlib import Path

from likeness import cli, files, images, manifests, models, provenance
from likeness.errors import LikenessError
from likeness.faces import FACE_COLUMNS, Detector
from likeness.identity import Recogniser, aligned_face, encode_aligned_face, encode_embedding

COLUMNS = ["photo", "sha256", "width", "height", "phash", "error", "face", *FACE_COLUMNS, "embedding", "aligned"]
MODELS = [
    models.FACE_DETECTION_SHORT_RANGE,
    models.FACE_DETECTION_FULL_RANGE,
    models.FACE_LANDMARKER,
    models.FACE_RECOGNITION_SFACE,
]


def main() -> None:
    args = cli.arguments(__doc__, "photos*", "no_photos*", "models", "cache", "faces")
    hashes = manifests.read_json(models.model_path(args.models, "models.json"))
    item_cache = files.ItemCache(args.cache, provenance.code_digest(Path(__file__)), *(hashes[name] for name in MODELS))
    mine, loading = threading.local(), threading.Lock()

    def loaded() -> tuple[Detector, Recogniser]:
        """The models of this thread, on its first call. One thread at a time: a Detector in the making silences the
        whole process."""
        if not hasattr(mine, "models"):
            with loading:
                mine.models = Detector(args.models), Recogniser(args.models)
        return mine.models

    def found(photo: Path) -> list[dict]:
        about = dict.fromkeys(COLUMNS, "") | {"photo": files.seen_from(args.faces.parent, photo)}
        try:
            images.check_file(photo)
            about["sha256"] = sha256 = provenance.file_sha256(photo)
        except LikenessError as error:
            return [about | {"error": str(error)}]
        except OSError as error:
            return [about | {"error": f"the file cannot be opened: {error.strerror}"}]
        item = item_cache.get(lambda: provenance.canonical(_faces(photo, *loaded())).encode(), sha256)
        return [about | row for row in json.loads(item.read_bytes())]

    everything = sorted([*args.photos, *args.no_photos])
    looked_at = cli.mapped(found, everything, args.threads, desc="faces", unit="photo")
    rows = [row for _, rows in looked_at for row in rows]
    manifests.write_table(args.faces, sorted(rows, key=lambda row: (row["photo"], row["face"] or 0)), COLUMNS)
    cli.say(item_cache.summary())


def _faces(photo: Path, detector: Detector, recogniser: Recogniser) -> list[dict]:
    """The rows of one photo, without its name: the same picture under another name is not looked at again."""
    try:
        with images.photo_in_turn(photo) as image:
            about = {"width": image.shape[1], "height": image.shape[0], "phash": images.perceptual_hash(image)}
            rows = [
                {
                    **(about | {"face": i} | row),
                    "embedding": encode_embedding(recogniser.embedding(image, row)),
                    "aligned": encode_aligned_face(aligned_face(image, row)),
                }
                for i, row in enumerate(detector.faces(image))
            ]
    except LikenessError as error:
        return [{"error": str(error)}]
    return rows or [about]


if __name__ == "__main__":
    cli.run(main)
