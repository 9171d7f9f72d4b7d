"""The identity of faces. SFace is used to curate photos and to choose LoRAs, dlib only to judge the results. The
aligned face (upright, small, grey) tells whether two photos are one picture."""

import base64
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from likeness.core.pinned_models import FACE_LANDMARKS_DLIB, FACE_RECOGNITION_DLIB, FACE_RECOGNITION_SFACE, model_path
from likeness.faces.detection import Detector, landmarks

# dlib's predictor works on an upright picture of the head with this size, in which the face has a fixed place.
CHIP_SIDE = 320  # px
CHIP_FACE_HEIGHT = 200  # px from hairline to chin

# The aligned face has 48 px, no more than a face of curate.min_face has. A smile or a blink has several of them.
ALIGNED_SIDE = 64  # px
ALIGNED_FACE_HEIGHT = 48  # px from hairline to chin


class Recogniser:
    """SFace through OpenCV.

    Source: Zhong et al. 2021, "SFace: Sigmoid-Constrained Hypersphere Loss for Robust Face Recognition".

    `models` is the folder made by fetch_models. Raises LikenessError if the model file is missing.
    """

    def __init__(self, models: Path):
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)  # OpenCV warns about its own default
        self._sface = cv2.FaceRecognizerSF.create(str(model_path(models, FACE_RECOGNITION_SFACE)), "")

    def embedding(self, image: np.ndarray, row: Mapping[str, Any]) -> np.ndarray:
        """float32 (128,) of length 1 for one face of a uint8 RGB picture; compare two with `similarity`."""
        box = [float(row[key]) for key in "xywh"]
        face = np.array([*box, *landmarks(row).ravel(), float(row["score"])], dtype=np.float32)
        aligned = self._sface.alignCrop(np.ascontiguousarray(image[..., ::-1]), face)
        feature = self._sface.feature(aligned)[0]
        return (feature / np.linalg.norm(feature)).astype(np.float32)


class Judge:
    """dlib's face recognition network (King 2017, dlib_face_recognition_resnet_model_v1).

    `models` is the folder made by fetch_models. Raises LikenessError if a model file is missing.
    """

    def __init__(self, models: Path):
        import dlib

        self._predictor = dlib.shape_predictor(str(model_path(models, FACE_LANDMARKS_DLIB)))
        self._network = dlib.face_recognition_model_v1(str(model_path(models, FACE_RECOGNITION_DLIB)))
        # The box that dlib's own detector gives for such a face, measured on 18 portraits. So the detector need not run
        # and cannot miss the face.
        middle, half = CHIP_SIDE // 2, round(0.46 * CHIP_FACE_HEIGHT)
        low = middle + round(0.04 * CHIP_FACE_HEIGHT)
        self._frame = dlib.rectangle(middle - half, low - half, middle + half, low + half)

    def embedding(self, image: np.ndarray, row: Mapping[str, Any]) -> np.ndarray:
        """float32 (128,) for one face of a uint8 RGB picture; compare two with `judge_similarity`."""
        chip = _upright_chip(image, row)
        return np.array(self._network.compute_face_descriptor(chip, self._predictor(chip, self._frame)), np.float32)


def similarity(a: np.ndarray, b: np.ndarray) -> float:
    """Cosine of two SFace embeddings, -1 to 1; OpenCV's own threshold for one person is 0.363."""
    return float(a @ b)


def judge_similarity(a: np.ndarray, b: np.ndarray) -> float:
    """1 - the Euclidean distance of two dlib embeddings: 1 means the same picture. dlib's own threshold for one person,
    a distance of 0.6, is 0.4."""
    return float(1 - np.linalg.norm(a - b))


def face_embedding(
    image: np.ndarray, detector: Detector, recogniser: Recogniser | Judge
) -> tuple[dict[str, Any] | None, np.ndarray | None]:
    """Row and embedding of the largest face in uint8 RGB (height, width, 3); (None, None) if there is no face."""
    rows = detector.faces(image)
    return (rows[0], recogniser.embedding(image, rows[0])) if rows else (None, None)


def encode_embedding(embedding: np.ndarray) -> str:
    """An embedding as text for a table: base64 of little-endian float32."""
    return base64.b64encode(embedding.astype("<f4").tobytes()).decode()


def decode_embedding(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype="<f4")


def aligned_face(image: np.ndarray, row: Mapping[str, Any]) -> np.ndarray:
    """The head of one face of a uint8 RGB picture, upright and grey: uint8 (ALIGNED_SIDE, ALIGNED_SIDE), black beyond
    the edge of the picture. `to_aligned_face` gives the place of each px in the picture."""
    # The warp interpolates 2 x 2 px and would alias finer detail, so it works at twice the size.
    chip = _upright_chip(image, row, 2 * ALIGNED_SIDE, 2 * ALIGNED_FACE_HEIGHT)
    return cv2.resize(
        cv2.cvtColor(chip, cv2.COLOR_RGB2GRAY), (ALIGNED_SIDE, ALIGNED_SIDE), interpolation=cv2.INTER_AREA
    )


def to_aligned_face(row: Mapping[str, Any]) -> np.ndarray:
    """The matrix from px of the picture to px of its `aligned_face`: float64 (2, 3). Pixel centres are at whole
    numbers."""
    turn, center = _upright(row, ALIGNED_FACE_HEIGHT)
    return np.column_stack([turn, np.full(2, ALIGNED_SIDE / 2 - 0.25) - turn @ center])


def encode_aligned_face(face: np.ndarray) -> str:
    """An aligned face as text for a table: base64."""
    return base64.b64encode(face.tobytes()).decode()


def decode_aligned_face(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), np.uint8).reshape(ALIGNED_SIDE, ALIGNED_SIDE)


def _upright(row: Mapping[str, Any], face_height: int) -> tuple[np.ndarray, np.ndarray]:
    """The matrix (2, 2) that turns a face upright and scales it to this height, and its middle (2,) in px of the
    picture."""
    scale, roll = face_height / float(row["face_height"]), math.radians(float(row["roll"]))
    turn = scale * np.array([[math.cos(roll), math.sin(roll)], [-math.sin(roll), math.cos(roll)]])
    return turn, np.array([float(row["center_x"]), float(row["center_y"])])


def _upright_chip(
    image: np.ndarray, row: Mapping[str, Any], side: int = CHIP_SIDE, face_height: int = CHIP_FACE_HEIGHT
) -> np.ndarray:
    """The head, upright, with the face `face_height` px high in the middle: uint8 (side, side, 3)."""
    turn, center = _upright(row, face_height)
    scale = face_height / float(row["face_height"])
    if scale < 0.5:  # the warp interpolates 2 x 2 px and would alias, so large faces are reduced first
        shrink = 2 * scale
        image = cv2.resize(image, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
        turn, center = turn / shrink, center * shrink
    offset = np.array([side / 2, side / 2]) - turn @ center
    return cv2.warpAffine(image, np.column_stack([turn, offset]), (side, side), flags=cv2.INTER_LINEAR)
