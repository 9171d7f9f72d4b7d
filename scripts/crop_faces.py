"""Cut the face out of every kept photo: square, upright, with a little shoulder."""

import os
from pathlib import Path

from likeness import cli, faces, files, images, provenance
from likeness.errors import LikenessError

COLUMNS = ["photo", "fate", "crop", "sha256", "side", "padded", "yaw", "pitch", "roll", "attributes"]
GEOMETRY = ["width", "height", "center_x", "center_y", "face_height", "roll"]


def main() -> None:
    args = cli.arguments(__doc__, "photos", "cache", "crops", "folder")
    face_fraction, resolution = args.config.crop.face_fraction, args.config.resolution
    settings = provenance.canonical({"face_fraction": face_fraction, "resolution": resolution})
    item_cache = files.ItemCache(args.cache, provenance.code_digest(Path(__file__)), settings)
    table = files.read_table(args.photos)
    kept = table[table["fate"] != "dropped"].to_dict("records")
    stems = images.unique_stems(row["photo"] for row in kept)
    rows, crops = [], {}
    for row in cli.progress(kept, desc="crops", unit="photo"):
        photo, name = args.photos.parent / row["photo"], f"{stems[row['photo']]}.png"
        if not photo.is_file() or provenance.file_sha256(photo) != row["sha256"]:
            raise LikenessError(f"{photo} was changed or removed after its faces were detected; run snakemake again")

        def crop(photo: Path = photo, row: dict = row) -> bytes:
            pixels, _ = faces.crop_face(images.read_photo(photo), row, face_fraction, resolution)
            return images.png_bytes(pixels)

        geometry = provenance.canonical({key: row[key] for key in GEOMETRY})
        crops[name] = item_cache.get(crop, row["sha256"], geometry)
        square = faces.crop_box(row, face_fraction)
        about = {
            "crop": os.path.relpath(args.folder / name, args.crops.parent),
            "sha256": provenance.file_sha256(crops[name]),
            "side": faces.crop_side(square, resolution),
            "padded": square.padded,
        }
        rows.append(row | about)
    files.publish_folder(args.folder, crops)
    files.write_table(args.crops, rows, COLUMNS)
    cli.say(item_cache.summary())


if __name__ == "__main__":
    cli.run(main)
