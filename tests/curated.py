"""The demonstration's photos, processed by the scripts for detection, curation and cropping as in their rules."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd

from likeness.config.sections import Curate
from likeness.core import manifests
from likeness.core.provenance import SCRIPTS

SETTINGS = Curate().model_dump()


def settings(**changes) -> SimpleNamespace:
    return SimpleNamespace(**SETTINGS | changes)


def script(name: str, config: dict | None = None, **options) -> str:
    """Run a script as a rule does; return its output."""
    command = [sys.executable, str(SCRIPTS / name), "--config", json.dumps(config or {})]
    for option, value in options.items():
        command += [f"--{option}", *map(str, value if isinstance(value, list) else [value])]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout


class Workplace:
    """A results folder with the manifests of the three scripts."""

    def __init__(self, folder: Path, models: Path):
        self.folder, self.models = folder, models

    def detect(self, photos: list[Path]) -> str:
        return script(
            "detect_faces.py",
            photos=photos,
            models=self.models,
            cache=self.folder / "cache",
            faces=self.folder / "ava/faces.tsv",
        )

    def curate(self, by_hand: dict | None = None, **changes) -> str:
        faces, photos = self.folder / "ava/faces.tsv", self.folder / "ava/photos.tsv"
        config = {"curate": SETTINGS | changes, "subject": {"reference": []}, "decisions": {"photos": by_hand or {}}}
        return script("curate_photos.py", config, faces=faces, photos=photos)

    def crop(self, resolution: int = 128) -> str:
        return script(
            "crop_faces.py",
            {"crop": {"face_fraction": 0.45, "face_level": 0.48}, "resolution": resolution, "buckets": False},
            photos=self.folder / "ava/photos.tsv",
            cache=self.folder / "cache_crops",
            crops=self.folder / "ava/crops.tsv",
            folder=self.folder / "ava/crops",
        )

    def table(self, name: str) -> pd.DataFrame:
        return manifests.read_table(self.folder / "ava" / name)


def clean(table: pd.DataFrame) -> pd.DataFrame:
    """The 24 photos of the demonstration without traps."""
    return table[table["photo"].str.contains(r"/\d\d\.jpg$")].copy()


def strangers(table, count: int, person: str = "somebody_else", name: str = "s") -> list[pd.DataFrame]:
    """The rows of `count` photos of another person. No photo counts as a copy of another."""
    stranger = table[table["photo"].str.contains(person)]
    return [
        stranger.assign(photo=f"{name}{i}.jpg", sha256=f"{name}{i}", phash=f"{i * 0x1111111111111111:016x}", aligned="")
        for i in range(count)
    ]


def fates(rows: list[dict]) -> dict[str, str]:
    return {Path(row["photo"]).name: row["fate"] for row in rows}


def held_out(rows: list[dict]) -> set[str]:
    return {name for name, fate in fates(rows).items() if fate == "heldout"}
