"""Models and photos that tests of faces share."""

import json
from pathlib import Path

import pandas as pd
import pytest

from curated import Workplace
from face_photos import CLEAN
from likeness.core.provenance import file_sha256
from likeness.faces import detection, identity
from likeness.photos.images import read_photo


@pytest.fixture(scope="session")
def detector(model_files):
    return detection.Detector(model_files)


@pytest.fixture(scope="session")
def recogniser(model_files):
    return identity.Recogniser(model_files)


@pytest.fixture(scope="session")
def portraits(ava):
    return [read_photo(ava / name) for name in CLEAN]


@pytest.fixture(scope="session")
def models(model_files, tmp_path_factory) -> Path:
    """The models with their manifest beside them, as fetch_models leaves them."""
    folder = tmp_path_factory.mktemp("models")
    for path in model_files.glob("[!.]*"):
        (folder / path.name).symlink_to(path.resolve())
    if not (folder / "models.json").exists():
        (folder / "models.json").write_text(json.dumps({p.name: file_sha256(p) for p in folder.iterdir()}))
    return folder


@pytest.fixture(scope="session")
def workplace(models, tmp_path_factory, ava) -> Workplace:
    """The demonstration's photos, processed once by detection, curation and cropping."""
    place = Workplace(tmp_path_factory.mktemp("results"), models)
    place.detect(sorted(ava.iterdir()))
    place.curate()
    place.crop()
    return place


@pytest.fixture(scope="session")
def table(workplace) -> pd.DataFrame:
    return workplace.table("faces.tsv")
