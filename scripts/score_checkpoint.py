"""Measure every picture of a run, and the person's real photos, and write one row of scores per picture."""

import json
from functools import cache
from pathlib import Path

import pandas as pd

from likeness import cli, scoring
from likeness.errors import LikenessError
from likeness.faces import Detector
from likeness.files import ItemCache, read_table, write_table
from likeness.identity import Judge, Recogniser
from likeness.images import read_photo
from likeness.models import model_path
from likeness.provenance import canonical, code_digest, file_sha256
from likeness.selection import read_samples


def main() -> None:
    args = cli.arguments(__doc__, "samples*", "crops", "strangers*", "models", "cache", "scores")
    hashes = json.loads(model_path(args.models, "models.json").read_text())
    items = ItemCache(
        args.cache, code_digest(Path(__file__)), canonical({name: hashes[name] for name in scoring.MODELS})
    )

    @cache
    def models() -> tuple[Detector, Recogniser, Judge]:
        return Detector(args.models), Recogniser(args.models), Judge(args.models)

    def measured(path: Path) -> scoring.Measurement:
        def item() -> bytes:
            return scoring.measurement_bytes(scoring.measure(read_photo(path), *models()))

        return scoring.read_measurement(items.get(item, file_sha256(path)))

    samples, crops = read_samples(args.samples), read_table(args.crops)
    crops["image"] = [str(args.crops.parent / crop) for crop in crops["crop"]]
    _check("sample_checkpoint", samples)
    _check("crop_faces", crops)
    rows = scoring.score_rows(
        samples,
        [measured(Path(image)) for image in cli.progress(samples["image"], desc="scores", unit="picture")],
        train=[measured(Path(image)) for image in crops.loc[crops["fate"] == "train", "image"]],
        heldout=[measured(Path(image)) for image in crops.loc[crops["fate"] == "heldout", "image"]],
        strangers=[measured(path) for path in sorted(args.strangers)],
        copy_limit=args.config.select.copy_limit,
        leak_limit=args.config.select.leak_limit,
        folder=args.scores.parent,
    )
    write_table(args.scores, rows, scoring.COLUMNS)
    first = rows[0]
    cli.say(
        f"identity: 0 is a similarity of {first['floor']:.3f} (from {first['floor_from']}), "
        f"1 is {first['ceiling']:.3f} (training photos to held-out ones)"
    )
    cli.say(items.summary())


def _check(rule: str, table: pd.DataFrame) -> None:
    """Every picture of a manifest is there and is the one that it lists."""
    for image, sha256 in zip(table["image"], table["sha256"], strict=True):
        if not Path(image).is_file() or file_sha256(Path(image)) != sha256:
            raise LikenessError(f"{image} is missing or was changed since it was made; run snakemake --forcerun {rule}")


if __name__ == "__main__":
    cli.run(main)
