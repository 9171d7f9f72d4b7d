"""Draw people from head to foot: the head of a portrait on a drawn body with shading."""

import math
from typing import NamedTuple

import cv2
import numpy as np

from bench_faces import FACE_CENTER, FACE_HEIGHT, Box, true_box

Colour = tuple[int, int, int]  # RGB
Outline = list[tuple[float, float]]  # (y, half of the width), in heights of the head; y is measured from the chin

# The face from hairline to chin, as a share of the head from crown to chin.
FACE_OF_HEAD = 0.75
# The place in an aligned portrait where the head ends and the drawn neck begins: a little below the chin.
NECK_IN_PORTRAIT = (0.5, 0.95)
# An ellipse that is hair and face in every aligned portrait, as shares of its side.
HEAD_CENTER, HEAD_RADII = (0.5, 0.53), (0.3, 0.43)
CUT_SIDE = 96  # px; fine enough for an outline that is blurred anyway, and quick
SKIN_AROUND_MOUTH = np.s_[0.74:0.9, 0.4:0.6]  # rows and columns of an aligned portrait, as shares of its side

# A standing adult is about seven heads high. The outlines are from drawing manuals, narrowed a little by eye.
NECK: Outline = [(-0.3, 0.24), (0.2, 0.24), (0.45, 0.36)]
TORSO: Outline = [(0.2, 0.2), (0.34, 0.5), (0.5, 0.8), (0.75, 0.88), (1.4, 0.72), (2.1, 0.62), (2.8, 0.78), (3.1, 0.78)]
SKIRT: Outline = [(2.0, 0.6), (2.8, 0.8), (4.4, 1.0)]
LEG = [(0.38, 2.9, 0.4), (0.37, 4.6, 0.25), (0.35, 6.1, 0.17)]  # (x, y, radius) of hip, knee and ankle
SHOE = (0.4, 6.25, 0.25, 0.13)  # x, y and the two radii
# (x, y, radius) of shoulder, elbow and wrist
ARM_HANGING = [(0.76, 0.66, 0.2), (0.98, 2.0, 0.17), (0.95, 3.1, 0.12)]
ARM_ON_HIP = [(0.76, 0.66, 0.2), (1.3, 1.85, 0.17), (0.82, 2.55, 0.12)]
FEET = 6.4  # heads from the chin to the ground


class Figure(NamedTuple):
    """A person in a picture. `portrait` is aligned: uint8 RGB (side, side, 3). `chin` is a place in px, `face_height`
    px from hairline to chin, `roll` degrees clockwise."""

    portrait: np.ndarray
    chin: tuple[float, float]
    face_height: float
    roll: float
    top: Colour
    bottom: Colour
    shoes: Colour
    has_skirt: bool
    arms_on_hip: tuple[bool, bool]  # at the picture's left and right

    @property
    def head(self) -> float:
        """The height of the head from crown to chin, in px."""
        return self.face_height / FACE_OF_HEAD

    @property
    def ground(self) -> float:
        """The y of the ground under the feet, in px."""
        return self.chin[1] + FEET * self.head


class Pen:
    """Draws the shaded parts of one figure into a picture, which it changes. `light` is a unit vector (x, y, z) from
    the figure to the light; z points to the camera."""

    def __init__(self, image: np.ndarray, figure: Figure, light: np.ndarray, rng: np.random.Generator):
        self._image, self._figure, self._light, self._rng = image, figure, light, rng

    def outline(self, outline: Outline, colour: Colour, folds: float) -> None:
        """Fill the shape between an outline and its mirror image."""
        points = [(width, y) for y, width in outline] + [(-width, y) for y, width in reversed(outline)]
        mask = self._empty()
        cv2.fillPoly(mask, [np.rint([self._place(x, y) for x, y in points]).astype(np.int32)], 255)
        # Blurring and cutting again rounds the corners.
        mask = np.where(cv2.GaussianBlur(mask, (0, 0), 0.06 * self._figure.head) > 127, np.uint8(255), np.uint8(0))
        self._fill(mask, colour, 0.55, folds)

    def limb(self, joints: list[tuple[float, float, float]], colour: Colour, folds: float) -> None:
        """Fill the tapered tubes between joints (x, y, radius)."""
        mask = self._empty()
        for start, end in zip(joints, joints[1:], strict=False):
            for t in np.linspace(0, 1, 40):
                x, y, radius = (1 - t) * np.array(start) + t * np.array(end)
                cv2.circle(mask, self._pixel(x, y), round(radius * self._figure.head), 255, -1)
        self._fill(mask, colour, joints[0][2], folds)

    def ellipse(self, x: float, y: float, x_radius: float, y_radius: float, colour: Colour) -> None:
        mask = self._empty()
        axes = round(x_radius * self._figure.head), round(y_radius * self._figure.head)
        cv2.ellipse(mask, self._pixel(x, y), axes, 0, 0, 360, 255, -1)
        self._fill(mask, colour, min(x_radius, y_radius), 0)

    def _place(self, x: float, y: float) -> np.ndarray:
        return np.array(self._figure.chin) + self._figure.head * np.array([x, y])

    def _pixel(self, x: float, y: float) -> tuple[int, int]:
        across, down = np.rint(self._place(x, y)).astype(int)
        return int(across), int(down)

    def _empty(self) -> np.ndarray:
        return np.zeros(self._image.shape[:2], np.uint8)

    def _fill(self, mask: np.ndarray, colour: Colour, radius: float, folds: float) -> None:
        """Shade a mask as if it were the outline of something round, with this radius at its edge, in heads."""
        left, top, width, height = cv2.boundingRect(mask)
        if min(width, height) < 4:
            return  # below the edge of the picture, or all but a few px
        box = np.s_[top : top + height, left : left + width]
        mask = np.ascontiguousarray(mask[box])
        # The relief is smooth, so half of the size is enough, and four times as quick.
        small = cv2.resize(mask, (-(-width // 2), -(-height // 2)), interpolation=cv2.INTER_NEAREST)
        edge = radius * self._figure.head / 2
        depth = np.clip(cv2.distanceTransform(small, cv2.DIST_L2, 5) / edge, 0, 1)
        relief = cv2.GaussianBlur(edge * np.sqrt(1 - (1 - depth) ** 2), (0, 0), 0.2 * edge)
        relief += folds * self._figure.head / 2 * self._creases(small.shape)
        down, across = np.gradient(relief)
        x, y, z = map(float, self._light)
        diffuse = np.clip((z - x * across - y * down) / np.sqrt(1 + across**2 + down**2), 0, 1)
        diffuse = cv2.resize(diffuse, (width, height), interpolation=cv2.INTER_LINEAR)
        shaded = np.clip(np.array(colour, np.float32) * (0.3 + 0.85 * diffuse[..., None]), 0, 255)
        alpha = cv2.GaussianBlur(mask, (0, 0), 1.2)[..., None] / np.float32(255)
        self._image[box] = np.rint(alpha * shaded + (1 - alpha) * self._image[box])

    def _creases(self, shape: tuple[int, ...]) -> np.ndarray:
        """Noise that is longer than wide, as cloth falls: float32 (height, width), of half of the picture's size."""
        return smooth_noise(self._rng, shape, 0.1 * self._figure.head, 0.35 * self._figure.head)


def draw_figure(image: np.ndarray, figure: Figure, light: np.ndarray, rng: np.random.Generator) -> Box:
    """Draw a figure into uint8 RGB (height, width, 3), and return the box of its face. The body may go beyond the
    picture's lower edge."""
    pen, skin = Pen(image, figure, light, rng), skin_colour(figure.portrait)
    draw_shadow(image, figure)
    for side in (-1, 1):
        leg = [(side * x, y, radius * (0.8 if figure.has_skirt else 1)) for x, y, radius in LEG]
        pen.limb(leg, skin if figure.has_skirt else figure.bottom, 0 if figure.has_skirt else 0.03)
        pen.ellipse(side * SHOE[0], *SHOE[1:], figure.shoes)
    if figure.has_skirt:
        pen.outline(SKIRT, figure.bottom, 0.05)
    pen.outline(NECK, skin, 0)
    pen.outline(TORSO, figure.top, 0.035)
    for side, on_hip in zip((-1, 1), figure.arms_on_hip, strict=True):
        arm = [(side * x, y, radius) for x, y, radius in (ARM_ON_HIP if on_hip else ARM_HANGING)]
        x, y, _ = arm[-1]
        pen.ellipse(x, y + (0 if on_hip else 0.2), 0.12, 0.2, skin)
        pen.limb(arm, figure.top, 0.02)
    return paste_head(image, figure)


def draw_shadow(image: np.ndarray, figure: Figure) -> None:
    """Darken the ground under the feet."""
    view, corner = part(image, (figure.chin[0], figure.ground), 2 * figure.head)
    shadow = np.zeros(view.shape[:2], np.uint8)
    center = round(figure.chin[0]) - corner[0], round(figure.ground - 0.05 * figure.head) - corner[1]
    cv2.ellipse(shadow, center, (round(1.2 * figure.head), round(0.18 * figure.head)), 0, 0, 360, 140, -1)
    shadow = cv2.GaussianBlur(shadow, (0, 0), 0.12 * figure.head)
    view[:] = np.rint(view * (1 - shadow[..., None] / np.float32(255)))


def part(image: np.ndarray, middle: tuple[float, float], radius: float) -> tuple[np.ndarray, tuple[int, int]]:
    """A view of the square around a middle, cut at the picture's edges, and its corner (x, y) in the picture. The
    middle may be below the picture; then the view is its lowest rows."""
    height, width = image.shape[:2]
    x, y = middle[0], min(middle[1], height)
    left, top = max(0, round(x - radius)), max(0, round(y - radius))
    return image[top : min(height, round(y + radius)), left : min(width, round(x + radius))], (left, top)


def paste_head(image: np.ndarray, figure: Figure) -> Box:
    """Paste the head of a figure's portrait, and return the box of its face."""
    portrait, side = figure.portrait, figure.face_height / FACE_HEIGHT
    mask = head_mask(portrait)
    if side < len(portrait):  # reduced first, because the warp interpolates few px and would alias
        size = (round(side), round(side))
        portrait, mask = (cv2.resize(part, size, interpolation=cv2.INTER_AREA) for part in (portrait, mask))
    scale, pivot = side / len(portrait), (len(portrait) - 1) * np.array(NECK_IN_PORTRAIT)
    place = cv2.getRotationMatrix2D((float(pivot[0]), float(pivot[1])), -figure.roll, scale)
    view, corner = part(image, figure.chin, 1.3 * side)
    place[:, 2] += np.array(figure.chin) - corner - pivot
    size = view.shape[1::-1]
    head = cv2.warpAffine(portrait, place, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    alpha = cv2.warpAffine(mask, place, size)[..., None]
    view[:] = np.rint(alpha * head + (1 - alpha) * view)
    middle = place @ [(len(portrait) - 1) / 2, (len(portrait) - 1) / 2, 1] + corner
    return true_box(side, figure.roll, middle)


def head_mask(portrait: np.ndarray) -> np.ndarray:
    """The opacity of the head in an aligned portrait: float32 (side, side), 0 to 1.

    GrabCut (Rother, Kolmogorov and Blake 2004) separates the head from its background. Shoulders at the lower corners
    are left out, because the drawn body has its own.
    """
    small = cv2.resize(portrait, (CUT_SIDE, CUT_SIDE), interpolation=cv2.INTER_AREA)
    y, x = np.mgrid[:CUT_SIDE, :CUT_SIDE] / (CUT_SIDE - 1)

    from_head = np.hypot((x - HEAD_CENTER[0]) / HEAD_RADII[0], (y - HEAD_CENTER[1]) / HEAD_RADII[1])
    labels = np.full(small.shape[:2], cv2.GC_PR_BGD, np.uint8)
    labels[from_head < 1.2] = cv2.GC_PR_FGD
    labels[from_head < 1] = cv2.GC_FGD
    labels[(y < 0.02) | (((x < 0.03) | (x > 0.97)) & (y < 0.5))] = cv2.GC_BGD
    cv2.setRNGSeed(0)  # GrabCut starts its colour models by k-means, from random centres
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(np.ascontiguousarray(small), labels, None, *models, 3, cv2.GC_INIT_WITH_MASK)
    inside = np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.uint8)
    inside = cv2.morphologyEx(inside, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    _, parts = cv2.connectedComponents(inside)
    inside = (parts == parts[round(FACE_CENTER[1] * CUT_SIDE), round(FACE_CENTER[0] * CUT_SIDE)]).astype(np.float32)
    lower_edge = 0.99 - 0.25 * np.abs(2 * x - 1) ** 3
    mask = cv2.GaussianBlur(inside, (0, 0), 1.2) * np.clip((lower_edge - y) / 0.05, 0, 1).astype(np.float32)
    return np.clip(cv2.resize(mask, portrait.shape[1::-1], interpolation=cv2.INTER_LINEAR), 0, 1)


def smooth_noise(rng: np.random.Generator, shape: tuple[int, ...], across: float, down: float) -> np.ndarray:
    """Noise of variance 1 with structures of this width and height in px: float32 (height, width).

    It is enlarged from a small picture of noise, which is much quicker than a wide blur.
    """
    size = (max(4, round(shape[0] / down)), max(4, round(shape[1] / across)))
    noise = cv2.resize(rng.standard_normal(size, np.float32), shape[1::-1], interpolation=cv2.INTER_CUBIC)
    return noise / noise.std()


def skin_colour(portrait: np.ndarray) -> Colour:
    """The median colour around the mouth of an aligned portrait, a little darker, as a neck is."""
    rows, columns = (slice(*(math.floor(len(portrait) * end) for end in (s.start, s.stop))) for s in SKIN_AROUND_MOUTH)
    red, green, blue = 0.95 * np.median(portrait[rows, columns].reshape(-1, 3), axis=0)
    return round(red), round(green), round(blue)
