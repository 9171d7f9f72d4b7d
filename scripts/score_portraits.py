"""Measure every portrait after each stage: identity by both recognisers, sharpness, and copies of training photos."""

from pathlib import Path

from likeness.choosing.recognisers import Recognisers, measurement_cache
from likeness.choosing.scores import read_scores
from likeness.core import cli
from likeness.core.manifests import checked_files, read_table, write_table
from likeness.photos.images import read_photo
from likeness.portraits import portrait_scores
from likeness.portraits.portrait_tables import COLUMNS, read_portraits


def main() -> None:
    args = cli.arguments(__doc__, "scenes*", "places*", "crops", "scores", "models", "cache", "portraits")
    items = measurement_cache(args.cache, args.models, __file__)
    recognisers = Recognisers(args.models)

    def faces(path: Path, content: str) -> list[portrait_scores.MeasuredFace]:
        """The faces of a picture; none of one that could not be read."""
        if not content:
            return []
        item = items.get(lambda: portrait_scores.faces_bytes(read_photo(path), *recognisers.all), content)
        return portrait_scores.read_faces(item)

    crops = read_table(args.crops)
    crops["image"] = checked_files(args.crops.parent, crops["crop"], crops["sha256"], "crop_faces")
    person = portrait_scores.measured_person(crops, faces, read_scores(args.scores))
    folder = args.portraits.parent
    table = read_portraits([*args.scenes, *args.places], folder, "draw_scene or place_face")
    drawn = cli.progress(table.itertuples(), total=len(table), desc="portraits", unit="picture")
    rows = portrait_scores.portrait_rows(
        table,
        [faces(folder / portrait.image, portrait.pixels) for portrait in drawn],
        person,
        keep={"scene": vars(args.config.keep.scene), "place": vars(args.config.keep.place)},
        copy_limit=args.config.select.copy_limit,
    )
    write_table(args.portraits, rows, COLUMNS)
    cli.say(items.summary())


if __name__ == "__main__":
    cli.run(main)
