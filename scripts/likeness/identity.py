"""Who is on a photo: SFace, by which photos are curated and LoRAs chosen, and dlib, the judge that took no part. And
the face alone, upright, small and grey, which tells whether two photos are one picture."""

import base64
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from likeness.faces import Detector, landmarks
from likeness.models import FACE_LANDMARKS_DLIB, FACE_RECOGNITION_DLIB, FACE_RECOGNITION_SFACE, model_path

# dlib's predictor is used on an upright picture of the head of this size, with the face in a fixed place.
CHIP_SIDE = 320  # px
CHIP_FACE_HEIGHT = 200  # px from hairline to chin

# The aligned face: 48 px are what a face of curate.min_face shows, and a smile or a blink is still several of them.
ALIGNED_SIDE = 64  # px
ALIGNED_FACE_HEIGHT = 48  # px from hairline to chin


class Recogniser:
    """SFace through OpenCV.

    Source: Zhong et al. 2021, "SFace: Sigmoid-Constrained Hypersphere Loss for Robust Face Recognition".

    `models` is the folder made by fetch_models. Raises LikenessError if the model file is missing.
    """

    def __init__(self, models: Path):
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)  # it warns about its own default
        self._sface = cv2.FaceRecognizerSF.create(str(model_path(models, FACE_RECOGNITION_SFACE)), "")

    def embedding(self, image: np.ndarray, row: Mapping) -> np.ndarray:
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
        # Where dlib's own detector frames such a face (measured on 18 portraits; it need not run, and cannot miss).
        middle, half = CHIP_SIDE // 2, round(0.46 * CHIP_FACE_HEIGHT)
        low = middle + round(0.04 * CHIP_FACE_HEIGHT)
        self._frame = dlib.rectangle(middle - half, low - half, middle + half, low + half)

    def embedding(self, image: np.ndarray, row: Mapping) -> np.ndarray:
        """float32 (128,) for one face of a uint8 RGB picture; compare two with `judge_similarity`."""
        chip = _upright_chip(image, row)
        return np.array(self._network.compute_face_descriptor(chip, self._predictor(chip, self._frame)), np.float32)


def similarity(a: np.ndarray, b: np.ndarray) -> float:
    """Cosine of two SFace embeddings, -1 to 1; OpenCV's own threshold for one person is 0.363."""
    return float(a @ b)


def judge_similarity(a: np.ndarray, b: np.ndarray) -> float:
    """1 - the Euclidean distance of two dlib embeddings: 1 is the same picture, and dlib's own threshold for one person
    (a distance of 0.6) is 0.4."""
    return float(1 - np.linalg.norm(a - b))


def face_embedding(
    image: np.ndarray, detector: Detector, recogniser: Recogniser | Judge
) -> tuple[dict[str, Any] | None, np.ndarray | None]:
    """Row and embedding of the largest face of uint8 RGB (height, width, 3); (None, None) where there is no face."""
    rows = detector.faces(image)
    return (rows[0], recogniser.embedding(image, rows[0])) if rows else (None, None)


def encode_embedding(embedding: np.ndarray) -> str:
    """An embedding as text for a table: base64 of little-endian float32."""
    return base64.b64encode(embedding.astype("<f4").tobytes()).decode()


def decode_embedding(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype="<f4")


def aligned_face(image: np.ndarray, row: Mapping) -> np.ndarray:
    """The head of a face of a uint8 RGB picture, upright and grey: uint8 (ALIGNED_SIDE, ALIGNED_SIDE), black where the
    picture ends. `to_aligned_face` says where each of its px comes from."""
    # Twice as large first: the warp looks at 2 x 2 px, and what is finer would be aliased.
    chip = _upright_chip(image, row, 2 * ALIGNED_SIDE, 2 * ALIGNED_FACE_HEIGHT)
    return cv2.resize(
        cv2.cvtColor(chip, cv2.COLOR_RGB2GRAY), (ALIGNED_SIDE, ALIGNED_SIDE), interpolation=cv2.INTER_AREA
    )


def to_aligned_face(row: Mapping) -> np.ndarray:
    """What brings px of the picture to px of its `aligned_face`: float64 (2, 3). Pixel centres are at whole numbers."""
    turn, center = _upright(row, ALIGNED_FACE_HEIGHT)
    return np.column_stack([turn, np.full(2, ALIGNED_SIDE / 2 - 0.25) - turn @ center])


def encode_aligned_face(face: np.ndarray) -> str:
    """An aligned face as text for a table: base64."""
    return base64.b64encode(face.tobytes()).decode()


def decode_aligned_face(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), np.uint8).reshape(ALIGNED_SIDE, ALIGNED_SIDE)


def _upright(row: Mapping, face_height: int) -> tuple[np.ndarray, np.ndarray]:
    """What turns a face upright and makes it so high (2, 2), and its middle (2,) in px of the picture."""
    scale, roll = face_height / float(row["face_height"]), math.radians(float(row["roll"]))
    turn = scale * np.array([[math.cos(roll), math.sin(roll)], [-math.sin(roll), math.cos(roll)]])
    return turn, np.array([float(row["center_x"]), float(row["center_y"])])


def _upright_chip(
    image: np.ndarray, row: Mapping, side: int = CHIP_SIDE, face_height: int = CHIP_FACE_HEIGHT
) -> np.ndarray:
    """The head, upright, the face so many px high in the middle: uint8 (side, side, 3)."""
    turn, center = _upright(row, face_height)
    scale = face_height / float(row["face_height"])
    if scale < 0.5:  # the warp looks at 2 x 2 px: reduce large faces first, or it would alias
        shrink = 2 * scale
        image = cv2.resize(image, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
        turn, center = turn / shrink, center * shrink
    offset = np.array([side / 2, side / 2]) - turn @ center
    return cv2.warpAffine(image, np.column_stack([turn, offset]), (side, side), flags=cv2.INTER_LINEAR)
