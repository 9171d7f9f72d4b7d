"""Crop the face of every kept photo, upright, with a little shoulder, and without other people. The crop is square or,
with buckets, has the photo's shape."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from likeness.core import cli, files, manifests, provenance
from likeness.core.errors import LikenessError
from likeness.faces.crops import Square, bucket, crop_box, crop_face, crop_side, face_in_crop, square_by_hand
from likeness.photos import images

COLUMNS = [
    *("photo", "fate", "crop", "sha256", "size", "side", "source_side", "padded", "face_fraction", "face"),
    *("yaw", "pitch", "roll", "brightness", "attributes"),
]


def main() -> None:
    args = cli.arguments(__doc__, "photos", "cache", "crops", "folder")
    framing, resolution = args.config.crop, args.config.resolution
    item_cache = files.ItemCache(args.cache, provenance.code_digest(Path(__file__)), str(resolution))
    table = manifests.read_table(args.photos)
    kept = table[table["fate"] != "dropped"].to_dict("records")
    stems = images.unique_stems(row["photo"] for row in kept)

    if args.config.buckets:
        cli.say(
            "buckets: each crop has its photo's shape; for faces, square crops are better: a wide or tall one shows "
            "more of what is around, and each shape fills batches of its own"
        )

    def size(row: Mapping[str, Any]) -> tuple[int, int]:
        """Width and height in px of the training image."""
        if not args.config.buckets:
            return resolution, resolution
        return bucket(int(row["width"]), int(row["height"]), resolution)

    def cropped(row: Mapping[str, Any]) -> tuple[Square, Path]:
        """The square, and the file of its crop in the cache."""
        photo = args.photos.parent / row["photo"]
        refuse_another(photo, row["sha256"])
        stretch = tuple(length / resolution for length in size(row))
        square = crop_box(row, framing.face_fraction, framing.face_level, stretch)
        if row["crop"]:
            square = square_by_hand(row, square, **json.loads(row["crop"]))
            refuse_outside(row, square)

        def crop() -> bytes:
            with images.photo_in_turn(photo) as image:
                refuse_another(photo, row["sha256"])  # again, because the photo may have changed before it was read
                return images.png_bytes(crop_face(image, square, resolution))

        return square, item_cache.get(crop, row["sha256"], provenance.canonical(square))

    rows, crops = [], {}
    for row, (square, crop) in cli.map_in_threads(cropped, kept, args.threads, desc="crops", unit="photo"):
        name = f"{stems[row['photo']]}.png"
        crops[name] = crop
        about = {
            "crop": files.seen_from(args.crops.parent, args.folder / name),
            "sha256": provenance.file_sha256(crop),
            "size": provenance.canonical(size(row)),
            "side": crop_side(square, resolution),
            "source_side": square.side,
            "padded": square.padded,
            "face_fraction": f"{float(row['face_height']) / square.side:.3f}",
            "face": provenance.canonical(face_in_crop(row, square)),
        }
        rows.append(row | about)
    files.publish_folder(args.folder, crops)
    manifests.write_table(args.crops, rows, COLUMNS)
    cli.say(item_cache.summary())


def refuse_another(photo: Path, sha256: str) -> None:
    """Raises LikenessError if a photo does not have this hash."""
    if not photo.is_file() or provenance.file_sha256(photo) != sha256:
        raise LikenessError(f"{photo} was changed or removed after its faces were detected; run snakemake again")


def refuse_outside(row: Mapping[str, Any], square: Square) -> None:
    """Raises LikenessError if a square that a person chose does not show the middle of the face."""
    x, y, *_ = face_in_crop(row, square)
    if not (0 < x < 1 and 0 < y < 1):
        raise LikenessError(
            f"{row['photo']}: the crop of decisions.yaml does not show the face, whose middle is at "
            f"{row['center_x']}, {row['center_y']} px; move it there"
        )


if __name__ == "__main__":
    cli.run(main)
