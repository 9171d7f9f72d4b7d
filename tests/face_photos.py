"""Photos of a portrait of the demonstration's person on a wall, also rotated, and the one face detected there."""

import cv2
import numpy as np

CLEAN = [f"{i:02d}.jpg" for i in range(24)]


def only_face(detector, image) -> dict:
    rows = detector.faces(image)
    assert len(rows) == 1
    return rows[0] | {"width": image.shape[1], "height": image.shape[0]}


def on_wall(portrait: np.ndarray, side: int, height: int = 1200, width: int = 1600) -> np.ndarray:
    """A photo with a portrait of `side` px in the middle of a grey wall."""
    wall = np.full((height, width, 3), 130, np.uint8)
    y, x = (height - side) // 2, (width - side) // 2
    wall[y : y + side, x : x + side] = cv2.resize(portrait, (side, side), interpolation=cv2.INTER_AREA)
    return wall


def turned(image: np.ndarray, degrees: float) -> np.ndarray:
    """The photo rotated clockwise around its middle, with the same size."""
    middle = ((image.shape[1] - 1) / 2, (image.shape[0] - 1) / 2)
    matrix = cv2.getRotationMatrix2D(middle, -degrees, 1)
    return cv2.warpAffine(image, matrix, image.shape[1::-1], borderValue=(130, 130, 130))
