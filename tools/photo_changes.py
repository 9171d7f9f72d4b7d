"""Changes of photos, to test the recognition of copies. CHANGES makes copies of a photo, MOMENTS other moments of a
burst, which are not copies."""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from likeness.faces.detection import landmarks

Change = Callable[[np.ndarray, np.random.Generator, dict], np.ndarray]


def cut(share: float) -> Change:
    """Crop by a share of each side at a random place, but not through the face."""

    def change(image: np.ndarray, rng: np.random.Generator, row: dict) -> np.ndarray:
        size = np.array(image.shape[1::-1])
        kept = np.rint(size * (1 - share)).astype(int)
        low = np.array([float(row["x"]), float(row["y"])])
        ends = np.stack([low + (float(row["w"]), float(row["h"])) - kept, low])
        left, top = np.clip(rng.uniform(ends.min(axis=0), ends.max(axis=0)), 0, size - kept).astype(int)
        return image[top : top + kept[1], left : left + kept[0]]

    return change


def trimmed(image: np.ndarray, *_: Any) -> np.ndarray:
    """Crop 3 % of each side."""
    y, x = (round(0.03 * length) for length in image.shape[:2])
    return image[y:-y, x:-x]


def resized(width: float, height: float | None = None) -> Change:
    def change(image: np.ndarray, *_: Any) -> np.ndarray:
        way = cv2.INTER_AREA if width < 1 else cv2.INTER_CUBIC
        return cv2.resize(image, None, fx=width, fy=height or width, interpolation=way)

    return change


def face_of(pixels: int) -> Change:
    return lambda image, rng, row: resized(pixels / float(row["w"]))(image)


def compressed(quality: int) -> Change:
    return lambda image, *_: cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], 1)


def filtered(function: Callable[[Image.Image], Image.Image]) -> Change:
    return lambda image, *_: np.asarray(function(Image.fromarray(image)).convert("RGB"))


def tones(function: Callable[[np.ndarray], np.ndarray]) -> Change:
    """Apply a filter to values from 0 to 1, float (height, width, 3)."""
    return lambda image, *_: np.rint(255 * np.clip(function(image / 255), 0, 1)).astype(np.uint8)


def vignette(values: np.ndarray) -> np.ndarray:
    y, x = (np.linspace(-1, 1, length) for length in values.shape[:2])
    return values * (1 - 0.25 * (x[None] ** 2 + y[:, None] ** 2))[..., None]


def sepia(values: np.ndarray) -> np.ndarray:
    return 0.3 * values + 0.7 * values.mean(axis=2, keepdims=True) * [1.1, 0.95, 0.75]


def turned(degrees: float) -> Change:
    """Rotate in one direction or the other, with black corners."""

    def change(image: np.ndarray, rng: np.random.Generator, _: dict) -> np.ndarray:
        height, width = image.shape[:2]
        turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees * rng.choice([-1, 1]), 1)
        return cv2.warpAffine(image, turn, (width, height), flags=cv2.INTER_CUBIC)

    return change


def mirrored(image: np.ndarray, *_: Any) -> np.ndarray:
    return image[:, ::-1]


def black_bars(image: np.ndarray, rng: np.random.Generator, _: dict) -> np.ndarray:
    height, width = image.shape[:2]
    above, beside = rng.permutation([round(rng.uniform(0.08, 0.3) * max(height, width)), 0])
    return cv2.copyMakeBorder(image, above, above, beside, beside, cv2.BORDER_CONSTANT)


def screenshot(image: np.ndarray, rng: np.random.Generator, _: dict) -> np.ndarray:
    """A screenshot of the photo in a phone's app: as wide as the screen, with text and buttons above and below."""
    paper = rng.choice([18, 245])
    screen, ink = np.full((1920, 1080, 3), paper, np.uint8), (255 - int(paper),) * 3
    height = min(1400, round(image.shape[0] * 1080 / image.shape[1]))
    width = round(image.shape[1] * height / image.shape[0])
    left = (1080 - width) // 2
    screen[200 : 200 + height, left : left + width] = cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)
    for line, (text, y) in enumerate([("12:41", 60), ("holiday_photos", 150), ("liked by many", height + 320)]):
        cv2.putText(screen, text, (60 + 80 * (line == 1), y), cv2.FONT_HERSHEY_SIMPLEX, 1.2, ink, 3)
    cv2.circle(screen, (80, 140), 40, (90, 140, 230), -1)
    for n in range(4):
        cv2.rectangle(screen, (60 + 120 * n, height + 225), (130 + 120 * n, height + 275), ink, 3)
    return screen


def one_after_the_other(*changes: Change) -> Change:
    def change(image: np.ndarray, rng: np.random.Generator, row: dict) -> np.ndarray:
        for one in changes:
            image = np.ascontiguousarray(one(image, rng, row))
        return image

    return change


grey = filtered(lambda image: image.convert("L"))


warm = tones(lambda values: values * [1.12, 1, 0.82] + [0.02, 0, -0.01])


CHANGES: dict[str, Change] = {
    "saved again, quality 15": compressed(15),
    "saved again, quality 40": compressed(40),
    "cut 3 % on each side": trimmed,
    "cut 10 %": cut(0.1),
    "cut 25 %": cut(0.25),
    "cut 40 %": cut(0.4),
    "half of the size": resized(0.5),
    "1.5 times the size": resized(1.5),
    "a face of 70 px": face_of(70),
    "squeezed by 4 %": resized(1, 0.96),
    "brighter": filtered(lambda image: ImageEnhance.Brightness(image).enhance(1.3)),
    "darker": filtered(lambda image: ImageEnhance.Brightness(image).enhance(0.6)),
    "more contrast": filtered(lambda image: ImageEnhance.Contrast(image).enhance(1.4)),
    "less contrast": filtered(lambda image: ImageEnhance.Contrast(image).enhance(0.6)),
    "more colour": filtered(lambda image: ImageEnhance.Color(image).enhance(1.7)),
    "grey": grey,
    "sepia": tones(sepia),
    "warm": warm,
    "cool": tones(lambda values: values * [0.85, 1, 1.15]),
    "gamma 0.6": tones(lambda values: values**0.6),
    "gamma 1.6": tones(lambda values: values**1.6),
    "vignette": tones(vignette),
    "sharpened": filtered(lambda image: image.filter(ImageFilter.UnsharpMask(2, 150, 2))),
    "blurred a little": filtered(lambda image: image.filter(ImageFilter.GaussianBlur(image.width / 400))),
    "noise": lambda image, rng, _: np.clip(image + rng.normal(0, 10, image.shape), 0, 255).astype(np.uint8),
    "turned by 3 degrees": turned(3),
    "turned by 7 degrees": turned(7),
    "turned by 10 degrees": turned(10),
    "mirrored": mirrored,
    "black bars": black_bars,
    "screenshot": screenshot,
    "mirrored, cut 20 %": one_after_the_other(cut(0.2), mirrored),
    "cut 15 %, grey, smaller": one_after_the_other(cut(0.15), grey, resized(0.6), compressed(50)),
    "turned, warm, screenshot": one_after_the_other(turned(5), warm, screenshot),
    "screenshot, mirrored": one_after_the_other(screenshot, mirrored),
}


def nearness(image: np.ndarray, center: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The coordinates x and y of the pixels relative to a middle, and their nearness: 1 in the middle, 0 from the
    radius on."""
    y, x = np.mgrid[: image.shape[0], : image.shape[1]].astype(np.float32)
    x, y = x - np.float32(center[0]), y - np.float32(center[1])
    return x, y, np.clip(1 - (x**2 + y**2) / np.float32(radius) ** 2, 0, 1) ** 2


def taken_from(image: np.ndarray, x: np.ndarray, y: np.ndarray, center: np.ndarray) -> np.ndarray:
    place = x + np.float32(center[0]), y + np.float32(center[1])
    return cv2.remap(image, *place, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def eyes_closing(*eyes: int) -> Change:
    """Close the lids of eyes (0 right, 1 left) to 0.4 of their opening."""

    def change(image: np.ndarray, rng: np.random.Generator, row: dict) -> np.ndarray:
        five = landmarks(row)
        for eye in eyes:
            x, y, near = nearness(image, five[eye], 0.25 * float(np.hypot(*(five[1] - five[0]))))
            image = taken_from(image, x, y * (1 + 1.5 * near), five[eye])
        return image

    return change


def smile(share: float) -> Change:
    """Move the corners of the mouth up and outwards, by a share of the distance of the eyes."""

    def change(image: np.ndarray, rng: np.random.Generator, row: dict) -> np.ndarray:
        five = landmarks(row)
        apart = float(np.hypot(*(five[1] - five[0])))
        for corner, outwards in ((3, -1), (4, 1)):
            x, y, near = nearness(image, five[corner], 0.6 * apart)
            image = taken_from(image, x - outwards * share * apart * near, y + share * apart * near, five[corner])
        return image

    return change


MOMENTS: dict[str, Change] = {
    "drawn: both eyes closing": eyes_closing(0, 1),
    "drawn: one eye closing": eyes_closing(0),
    "drawn: a smile": smile(0.1),
    "drawn: a little smile": smile(0.05),
}
