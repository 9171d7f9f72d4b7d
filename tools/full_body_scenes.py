"""Draw full-body scenes: pictures of people from head to foot, whose faces are too small to be like anybody.

    python tools/full_body_scenes.py FOLDER

The bodies and the backgrounds are drawn, and the heads are those of portraits in resources/ of people who do not exist.
The same call gives the same files. FOLDER gets a PNG for each scene.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from bench_faces import ROOT, Box
from drawn_figures import FEET, Figure, draw_figure, smooth_noise
from likeness.photos.images import read_photo

WIDTH, HEIGHT, SCENES = 512, 768, 24
ENLARGED = 2  # a scene is drawn larger and reduced, which makes edges smooth
FACE_HEIGHTS = 42, 98  # px from hairline to chin, in the smallest and in the largest scene
ROLL = 20  # degrees, at most
SECOND_PERSON_EVERY = 4  # scenes
# The second person is smaller, so that the first is the one who is meant. The detector finds faces from 40 px on.
SECOND_FACE, SMALLEST_SECOND = 0.8, 42
GROUND_LINE = 0.72  # of the picture's height: where the ground begins behind the figures

# The demonstration's person is a woman, and so are the strangers in whose place she is put. All look adult. The
# second people are men.
WOMEN = [
    *("calibration/205/0", "calibration/251/2", "calibration/288/0", "calibration/377/0", "calibration/58/0"),
    *("bursts/144/0_first", "calibration/133/0"),
    *("calibration/205/1", "calibration/288/1", "calibration/377/1", "calibration/58/1", "bursts/144/1_first"),
]
MEN = [
    *("calibration/120/0", "calibration/7/0", "calibration/99/0", "bursts/140/0_first", "bursts/151/0_first"),
    "bursts/150/0_first",
]
CLOTHES = [
    *((150, 40, 45), (40, 70, 130), (60, 110, 80), (225, 220, 210), (45, 45, 50), (200, 150, 60)),
    *((110, 70, 120), (90, 140, 170), (180, 95, 70), (120, 120, 125)),
]
TROUSERS = [(45, 55, 85), (50, 50, 52), (120, 105, 85), (70, 60, 50)]
SHOES = [(40, 32, 28), (220, 218, 212), (95, 60, 40)]


class Scene(NamedTuple):
    """A picture, uint8 RGB (HEIGHT, WIDTH, 3), and the boxes of its faces in px, that of the first person first."""

    image: np.ndarray
    boxes: list[Box]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for number, scene in enumerate(scenes()):
        cv2.imwrite(str(folder / f"{number:02d}.png"), scene.image[..., ::-1])


def scenes() -> Iterator[Scene]:
    """All scenes, the same at each call."""
    return map(scene, range(SCENES))


def scene(number: int) -> Scene:
    """One of the scenes 0 to SCENES - 1."""
    rng = np.random.default_rng([20, number])
    # Steps of 7 of 24 mix the sizes, so that no kind of background has only small faces.
    size = np.interp(7 * number % SCENES, (0, SCENES - 1), FACE_HEIGHTS)
    has_second = number % SECOND_PERSON_EVERY == SECOND_PERSON_EVERY - 1
    light = unit(np.array([rng.uniform(-0.8, 0.8), rng.uniform(-0.7, -0.3), 0.8]))
    background = BACKGROUNDS[number % len(BACKGROUNDS)](rng)
    enlarged = (ENLARGED * WIDTH, ENLARGED * HEIGHT)
    image = np.ascontiguousarray(cv2.resize(background, enlarged, interpolation=cv2.INTER_CUBIC))
    places = [(WIDTH * rng.uniform(0.42, 0.58), size)]
    if has_second:
        size = max(size, SMALLEST_SECOND / SECOND_FACE)
        across = 0.32, 0.72
        places = [(WIDTH * across[0], size), (WIDTH * across[1], SECOND_FACE * size)]
    boxes = []
    for person, (x, face_height) in reversed(list(enumerate(places))):  # who stands behind is drawn first
        portraits = MEN if person else WOMEN
        portrait = read_photo(ROOT / "resources" / f"{portraits[number // (1 + 3 * person) % len(portraits)]}.jpg")
        drawn = figure(portrait, ENLARGED * x, ENLARGED * face_height, person == 0, rng)
        boxes.insert(0, tuple(value / ENLARGED for value in draw_figure(image, drawn, light, rng)))
    image = cv2.resize(image, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    return Scene(lit(image, light, rng), boxes)


def figure(
    portrait: np.ndarray, x: float, face_height: float, may_wear_skirt: bool, rng: np.random.Generator
) -> Figure:
    """A figure in the enlarged picture with random clothes. It stands on the ground if it is small enough for that,
    and is cut by the lower edge otherwise."""
    figure = Figure(
        portrait,
        (x, 0.0),
        face_height,
        rng.uniform(-ROLL, ROLL),
        picked(CLOTHES, rng),
        picked(TROUSERS, rng),
        picked(SHOES, rng),
        may_wear_skirt and rng.random() < 0.4,
        (rng.random() < 0.3, rng.random() < 0.3),
    )
    standing = ENLARGED * HEIGHT * rng.uniform(0.9, 0.95) - FEET * figure.head
    return figure._replace(chin=(x, max(standing, 1.6 * figure.head)))


def picked(choices: list, rng: np.random.Generator) -> tuple[int, int, int]:
    return choices[rng.integers(len(choices))]


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def lit(image: np.ndarray, light: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The picture in warm or cool light, brighter at the light's side, and with a camera's noise."""
    warmth, exposure = rng.uniform(-0.08, 0.08), rng.uniform(0.85, 1.12)
    across = 1 + 0.25 * light[0] * np.linspace(-1, 1, WIDTH)[None, :, None]
    gain = (exposure * across * [1 + warmth, 1, 1 - warmth]).astype(np.float32)
    noise = 2 * rng.standard_normal(image.shape, np.float32)
    return np.rint(np.clip(image * gain + noise, 0, 255)).astype(np.uint8)


def flat(colour: tuple[int, int, int]) -> np.ndarray:
    return np.tile(np.array(colour, np.float32), (HEIGHT, WIDTH, 1))


def clouds(rng: np.random.Generator, *sizes: float, stretched: float = 1) -> np.ndarray:
    """Smooth noise of variance 1 with structures of these radii in px, `stretched` times as wide as high: float32
    (HEIGHT, WIDTH, 1)."""
    total = sum(smooth_noise(rng, (HEIGHT, WIDTH), 2 * size * stretched, 2 * size) for size in sizes)
    return (total / total.std())[..., None]


def with_ground(above: np.ndarray, ground: np.ndarray) -> np.ndarray:
    """The ground below GROUND_LINE, nearer and so brighter towards the lower edge."""
    line = round(GROUND_LINE * HEIGHT)
    image = above.copy()
    image[line:] = ground[line:] * np.linspace(0.8, 1.1, HEIGHT - line)[:, None, None]
    return image


def finished(image: np.ndarray, blur: float) -> np.ndarray:
    return np.clip(cv2.GaussianBlur(image, (0, 0), blur), 0, 255).astype(np.uint8)


def studio(rng: np.random.Generator) -> np.ndarray:
    """Paper that hangs down and goes on as the floor."""
    colour = rng.uniform(90, 200, 3) * 0.3 + 0.7 * rng.uniform(80, 200)
    y = np.linspace(0, 1, HEIGHT)[:, None, None]
    light = 0.8 + 0.25 * np.exp(-(((y - 0.4) / 0.35) ** 2)) - 0.15 * np.exp(-(((y - GROUND_LINE) / 0.08) ** 2))
    return finished(flat(tuple(colour)) * light + 2 * clouds(rng, 40), 1)


def room(rng: np.random.Generator) -> np.ndarray:
    """A wall with a window and a shelf, and a wooden floor."""
    wall = flat(tuple(rng.uniform(140, 215, 3))) + 3 * clouds(rng, 60, 3)
    left = int(rng.integers(20, 60))
    cv2.rectangle(wall, (left, 70), (left + 130, 300), (235, 240, 245), -1)
    cv2.rectangle(wall, (left, 70), (left + 130, 300), (120, 100, 80), 8)
    cv2.line(wall, (left + 65, 70), (left + 65, 300), (120, 100, 80), 5)
    cv2.rectangle(wall, (370, 180), (500, 560), (105, 75, 50), -1)
    for y in range(190, 540, 70):
        for x in range(378, 485, 13):
            colour = tuple(rng.uniform(40, 200, 3))
            cv2.rectangle(wall, (x, y + int(rng.integers(0, 18))), (x + 11, y + 60), colour, -1)
    floor = flat((150, 110, 75)) + 10 * clouds(rng, 1.5, stretched=30)
    return finished(with_ground(wall, floor), 1.6)


def park(rng: np.random.Generator) -> np.ndarray:
    """Sky, trees and grass."""
    y = np.linspace(0, 1, HEIGHT)[:, None, None]
    sky = flat((150, 185, 225)) + 60 * y + 8 * clouds(rng, 30, 60, stretched=2)
    leaves = np.array([70, 105, 50], np.float32) + 28 * clouds(rng, 2, 8, 25) * np.array([0.9, 1, 0.6], np.float32)
    edge = 0.28 + 0.06 * clouds(rng, 25, 60)
    trees = np.where(y > edge, leaves, sky)
    grass = np.array([95, 130, 60], np.float32) + 14 * clouds(rng, 1.5, 10, stretched=2)
    return finished(with_ground(trees, grass), 1.8)


def street(rng: np.random.Generator) -> np.ndarray:
    """Houses with windows, and a pavement."""
    houses = flat((190, 200, 215))
    x = 0
    while x < WIDTH:
        width, top = int(rng.integers(90, 190)), int(rng.integers(0, 140))
        colour = rng.uniform(90, 200) * rng.uniform(0.85, 1.15, 3)
        cv2.rectangle(houses, (x, top), (x + width, HEIGHT), tuple(colour), -1)
        for window_y in range(top + 25, round(GROUND_LINE * HEIGHT) - 60, 75):
            for window_x in range(x + 14, x + width - 26, 42):
                glass = tuple(rng.uniform(0.3, 0.75) * np.array([150, 175, 200]))
                cv2.rectangle(houses, (window_x, window_y), (window_x + 24, window_y + 42), glass, -1)
        x += width
    pavement = flat((140, 138, 135)) + 7 * clouds(rng, 1, 6, stretched=3)
    return finished(with_ground(houses + 4 * clouds(rng, 3, 20), pavement), 2.5)


def beach(rng: np.random.Generator) -> np.ndarray:
    """Sky, sea and sand."""
    y = np.linspace(0, 1, HEIGHT)[:, None, None]
    sky = flat((125, 170, 220)) + 110 * y + 10 * clouds(rng, 25, 70, stretched=3)
    sea = flat((60, 115, 145)) + 14 * clouds(rng, 1.5, 5, stretched=8)
    sand = flat((205, 185, 145)) + 8 * clouds(rng, 1.5, 12, stretched=3)
    return finished(with_ground(np.where(y > 0.45, sea, sky), sand), 1.4)


def bricks(rng: np.random.Generator) -> np.ndarray:
    """A wall of bricks, and paving stones."""
    wall = flat((175, 165, 155))
    for row, y in enumerate(range(0, HEIGHT, 18)):
        for x in range(-40 + 20 * (row % 2), WIDTH, 40):
            colour = np.array([150, 85, 65]) * rng.uniform(0.75, 1.15)
            cv2.rectangle(wall, (x, y), (x + 37, y + 15), tuple(colour), -1)
    stones = flat((125, 122, 118)) + 12 * clouds(rng, 4, 14, stretched=3)
    return finished(with_ground(wall + 5 * clouds(rng, 2, 30), stones), 1.2)


BACKGROUNDS = [park, room, street, studio, beach, bricks, studio]


if __name__ == "__main__":
    main()
