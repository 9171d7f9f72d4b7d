"""The attributes of a face that the person could change: expression, gaze, glasses, light, background.

px are in the upright picture; `mesh` is MediaPipe's face mesh, float (478, 2) px. Left and right are the picture's,
after the roll of the face was corrected.
"""

import math
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np

# Mesh points from the top of the forehead to the chin: down the outline at the picture's left and right, and down the
# middle of the face.
LEFT_OUTLINE = [10, 109, 67, 103, 54, 21, 162, 127, 234, 93, 132, 58, 172, 136, 150, 149, 176, 148, 152]
RIGHT_OUTLINE = [10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152]
MIDLINE = [10, 151, 9, 8, 168, 6, 197, 195, 5, 4, 1, 2, 164, 0, 17, 18, 200, 199, 175, 152]
RIGHT_EYE, LEFT_EYE = [33, 133], [362, 263]  # of the person: outer and inner corner, inner and outer corner
RIGHT_IRIS = 468

# Glasses are detected in an upright strip around the eyes of 3 x 2 eye distances: px.
EYE_DISTANCE = 64
STRIP_WIDTH, STRIP_HEIGHT, EYE_LEVEL = 192, 128, 56
# px between the eyes in the photo. Of 700 faces reduced to 25 px none was decided wrongly, neither with glasses nor
# without; 73 % of the faces with glasses and 93 % of those without were decided, at 23 px 67 and 90 %.
MIN_EYE_DISTANCE = 25
# A measure below the first means no glasses, one above the second means glasses, one in between is undecided. They were
# chosen on 243 labelled faces of 180 people who do not exist, of which those without glasses measured at most 0.07. Of
# 396 other faces, one per person and 62 of them with glasses or sunglasses, 92 % were decided, 99.2 % of these
# correctly. All 51 faces with the result "glasses" have some; 3 of the 313 with the result "none" have rimless ones.
# Reduced to 30 px between the eyes, 88 % were decided, 98.6 % correctly, and still no face without glasses wrongly.
NO_GLASSES, GLASSES = 0.035, 0.075
# The edges of lids and brows in a sharp picture: 97 % of 200 measured more. In pictures that are blurred by a thirtieth
# of the distance between the eyes most measure less, and a quarter of the glasses would be missed.
SHARP_LIDS = 0.06

# A picture is monochrome if the channels of 99 of 100 pixels differ by less than this share of its mean brightness,
# after a reduction that averages out JPEG's colour noise. None of 930 colour portraits is. Sepia does not count.
MONOCHROME_SPREAD = 0.08
MONOCHROME_SIDE = 256  # px

# Face height as a share of the picture from which a caption calls it a close-up; only close-up photos give such crops.
# The usual share (0.45) has no name, because training would learn a word that is in every caption as a second trigger.
CLOSE_UP = 0.65


def attributes(image: np.ndarray, mesh: np.ndarray, shapes: Mapping[str, float], roll: float) -> dict[str, Any]:
    """The attributes of one face in uint8 RGB (height, width, 3); an attribute that cannot be measured is None.

    `shapes` are MediaPipe's 52 blendshapes by name (0 to 1), `roll` is that of the line between the eyes in degrees,
    clockwise.
    smile, eyes_closed, mouth_open: 0 to 1. glasses: whether the person wears any. gaze_x, gaze_y: -1 to 1, of the eyes
    relative to the head, positive to the picture's right and down. background, light: mean luminance behind and of the
    face, 0 to 1. light_side: -1 to 1, positive if the right half of the face is brighter. monochrome: no colours.
    """
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    left, right = (_median(gray, mesh[[*outline, *MIDLINE[::-1]]]) for outline in (LEFT_OUTLINE, RIGHT_OUTLINE))
    return {
        "smile": _mean(shapes, "mouthSmileLeft", "mouthSmileRight"),
        "eyes_closed": _mean(shapes, "eyeBlinkLeft", "eyeBlinkRight"),
        "mouth_open": round(shapes["jawOpen"], 3),
        "glasses": _glasses(gray, mesh),
        **_gaze(shapes),
        "background": _background(gray, mesh, roll),
        "light": _light(gray, mesh),
        "light_side": None if left is None or right is None else round((right - left) / max(right + left, 1e-6), 3),
        "monochrome": _monochrome(image),
    }


def _gaze(shapes: Mapping[str, float]) -> dict[str, float]:
    """gaze_x and gaze_y. Blendshapes have the person's own left and right: a left eye that looks out looks to the
    picture's right."""
    to_right = _mean(shapes, "eyeLookOutLeft", "eyeLookInRight") - _mean(shapes, "eyeLookInLeft", "eyeLookOutRight")
    down = _mean(shapes, "eyeLookDownLeft", "eyeLookDownRight") - _mean(shapes, "eyeLookUpLeft", "eyeLookUpRight")
    return {"gaze_x": round(to_right, 3), "gaze_y": round(down, 3)}


def _glasses(gray: np.ndarray, mesh: np.ndarray) -> bool | None:
    """Whether the person wears glasses; None if the eyes are too small or too blurred, or the edges are undecided."""
    strip = _eye_strip(gray, mesh)
    if strip is None:
        return None
    light = _relative_to_skin(strip)
    edges = _frame_edges(light)
    if edges >= GLASSES:
        return True
    return False if edges <= NO_GLASSES and _lid_edges(light) >= SHARP_LIDS else None


def _eye_strip(gray: np.ndarray, mesh: np.ndarray) -> np.ndarray | None:
    """The upright strip around the eyes: uint8 (STRIP_HEIGHT, STRIP_WIDTH); None if the eyes are too small."""
    right, left = mesh[RIGHT_EYE].mean(axis=0), mesh[LEFT_EYE].mean(axis=0)
    distance = float(np.hypot(*(left - right)))
    if distance < MIN_EYE_DISTANCE:
        return None
    middle = (right + left) / 2
    corner = np.maximum(middle - 2 * distance, 0).astype(int)
    x, y = np.maximum(middle + 2 * distance, 0).astype(int)
    view = gray[corner[1] : y, corner[0] : x]
    if not view.size:
        return None
    scale = min(1, EYE_DISTANCE / distance)  # the view is reduced first, because a warp does not average
    view = cv2.resize(view, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    along = (left - right) * scale / EYE_DISTANCE  # one px of the strip, in the view
    down = np.array([-along[1], along[0]])
    origin = (middle - corner) * scale - along * STRIP_WIDTH / 2 - down * EYE_LEVEL
    return cv2.warpAffine(
        view,
        np.column_stack([along, down, origin]),
        (STRIP_WIDTH, STRIP_HEIGHT),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )


def _relative_to_skin(strip: np.ndarray) -> np.ndarray:
    """float32: brightness relative to that of the skin under the eyes, without the finest noise."""
    light = cv2.GaussianBlur(strip.astype(np.float32), (0, 0), 0.7)
    return light / (np.median(_part(light, -0.6, 0.6, 0.25, 0.55)) + 10)  # 10 limits the noise in dark pictures


def _frame_edges(light: np.ndarray) -> float:
    """The strength of edges like those of glasses in a strip, relative to the skin's brightness, per px.

    A bridge is a line across the nose, where skin is smooth: down the middle of the strip the brightness falls and
    rises steeply. Rims are edges under both eyes. They have less weight, because bags under the eyes are edges, too.
    """
    across_nose = np.diff(np.median(_part(light, -0.1, 0.1, -0.2, 0.35), axis=1))
    bridge = math.sqrt(max(across_nose.max(), 1e-4) * max(-across_nose.min(), 1e-4))
    downward = np.abs(np.gradient(light, axis=0))
    under_eyes = [np.median(_part(downward, eye - 0.2, eye + 0.2, 0.2, 0.6).max(axis=0)) for eye in (-0.5, 0.5)]
    return float(bridge**0.75 * math.sqrt(under_eyes[0] * under_eyes[1]) ** 0.25)


def _lid_edges(light: np.ndarray) -> float:
    """The steepest edges at the eyes themselves, which every sharp picture has; those of the eye with weaker edges."""
    downward = np.abs(np.gradient(light, axis=0))
    return float(min(np.percentile(_part(downward, eye - 0.2, eye + 0.2, -0.2, 0.15), 95) for eye in (-0.5, 0.5)))


def _part(strip: np.ndarray, left: float, right: float, top: float, bottom: float) -> np.ndarray:
    """A region of a strip, given in eye distances from the point between the eyes."""
    rows = (EYE_LEVEL + round(y * EYE_DISTANCE) for y in (top, bottom))
    columns = (STRIP_WIDTH // 2 + round(x * EYE_DISTANCE) for x in (left, right))
    return strip[slice(*rows), slice(*columns)]


def _background(gray: np.ndarray, mesh: np.ndarray, roll: float) -> float | None:
    """Mean luminance (0 to 1) to both sides of the head and above them: the rows from one face height above the face
    down to the eyes, the columns from a quarter to one and a half face widths away. None if the head is tilted or the
    photo shows too little."""
    (left, top), (right, bottom) = mesh.min(axis=0), mesh.max(axis=0)
    width, height = right - left, bottom - top
    if abs(roll) > 30:
        return None
    rows = slice(max(0, int(top - height)), max(0, int(mesh[RIGHT_IRIS, 1])))
    columns = (
        slice(max(0, int(left - 1.5 * width)), max(0, int(left - 0.25 * width))),
        slice(max(0, int(right + 0.25 * width)), max(0, int(right + 1.5 * width))),
    )
    sides = np.concatenate([gray[rows, c].ravel() for c in columns])
    return round(float(sides.mean()) / 255, 3) if len(sides) >= 0.05 * width * height else None


def _monochrome(image: np.ndarray) -> bool:
    step = max(1, max(image.shape[:2]) // (4 * MONOCHROME_SIDE))  # a large photo is subsampled, to save time
    image = image[::step, ::step]
    scale = min(1, MONOCHROME_SIDE / max(image.shape[:2]))
    size = [max(1, round(side * scale)) for side in image.shape[1::-1]]
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return bool(np.percentile(np.ptp(small, axis=2), 99) < MONOCHROME_SPREAD * small.mean())


def _median(gray: np.ndarray, outline: np.ndarray) -> float | None:
    """The median luminance (0 to 1) inside an outline, float (n, 2) px; None if it lies outside the picture."""
    inside = _inside(gray, outline)
    return float(np.median(inside)) / 255 if len(inside) else None


def _light(gray: np.ndarray, mesh: np.ndarray) -> float | None:
    """The mean luminance (0 to 1) of the face."""
    inside = _inside(gray, mesh[[*LEFT_OUTLINE, *RIGHT_OUTLINE[::-1]]])
    return round(float(inside.mean()) / 255, 3) if len(inside) else None


def _inside(gray: np.ndarray, outline: np.ndarray) -> np.ndarray:
    """The pixels of a picture inside an outline, float (n, 2) px: uint8 (m,)."""
    (left, top), (right, bottom) = np.maximum(outline.min(axis=0), 0).astype(int), outline.max(axis=0).astype(int) + 1
    view = gray[top : max(bottom, 0), left : max(right, 0)]
    if not view.size:
        return view.ravel()
    mask = np.zeros(view.shape, np.uint8)
    cv2.fillPoly(mask, [np.rint(outline - (left, top)).astype(np.int32)], 1)
    return view[mask > 0]


def _mean(shapes: Mapping[str, float], *names: str) -> float:
    return round(sum(shapes[name] for name in names) / len(names), 3)
