"""What every script that measures faces begins with: its item cache, the detector and the two recognisers."""

from functools import cached_property
from pathlib import Path

from likeness.choosing.scoring import MODELS
from likeness.core.files import ItemCache
from likeness.core.manifests import read_json
from likeness.core.pinned_models import model_path
from likeness.core.provenance import canonical, code_digest
from likeness.faces.detection import Detector
from likeness.faces.identity import Judge, Recogniser


def measurement_cache(folder: Path, models: Path, script: str) -> ItemCache:
    """The item cache of a script that measures. Its keys contain the code and the models that a measurement needs."""
    hashes = read_json(model_path(models, "models.json"))
    return ItemCache(folder, code_digest(Path(script)), canonical({name: hashes[name] for name in MODELS}))


class Recognisers:
    """The detector and the two recognisers. They are loaded when they are first needed, so that a call that finds all
    its results loads none."""

    def __init__(self, models: Path):
        self._models = models

    @cached_property
    def all(self) -> tuple[Detector, Recogniser, Judge]:
        return Detector(self._models), Recogniser(self._models), Judge(self._models)
