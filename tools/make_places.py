"""Make resources/places: pictures of people who do not exist, from head to chest, for the demonstration to put its
person into.

    FOLDER/generator/bin/python tools/make_places.py resources/places

The program runs in the environment that tools/base/make_base.sh makes in its FOLDER. The generator draws only heads, so
the picture is made larger inside it: its features at 32 x 32 are framed by more background and by more of the clothes,
and the rest of the generator draws a whole picture from them. Such features hold for any size, because the layers after
them are convolutions. The same call gives the same files on one kind of processor.
"""

import argparse
import importlib.util
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import openvino

# Other seeds in use: 1 for the people of the demonstration and the calibration, 7 for the strangers, 2026 for the base
# model's faces.
SEED, PEOPLE = 11, 60
MEAN_SEED, MEAN_COUNT = 1, 400  # the noise for the mean face, as for the demonstration's people
TRUNCATION = 0.7  # the distance from the mean face, as of the demonstration's people
QUALITY = 92

SIDE = 32  # features; a feature is 32 px of the drawn picture
LAYER = "LeakyRelu_342"  # the last of the generator's network with SIDE x SIDE features
PIXELS = 1024 // SIDE
# In features from the middle of the lower edge: the half width of the neck there, and what it loses in each row below,
# so that the collar is round; the range in which the clothes are, right beside the neck.
NECK, COLLAR, CLOTHES = 6.0, 1.1, (7, 10)
# The body becomes wider by this share of its width, and by two thirds of it within so many rows.
SHOULDERS, SLOPE = 0.7, 5.0
PLAIN = 0.75  # share of the clothes' mean in each feature; less gives patterns, more a cloth without any
# The head of an aligned picture, as shares of its side: the middle and the size of an ellipse.
HEAD_CENTER, HEAD_SIZE = (0.5, 0.6), (0.57, 0.66)
CUT_WIDTH = 256  # px of the picture in which a person is cut out


class Frame(NamedTuple):
    """How many features are added at each edge."""

    top: int
    bottom: int
    left: int
    right: int


class Person(NamedTuple):
    """A drawn picture and the opacity of the person in it: uint8 RGB (height, width, 3), float32 (height, width)."""

    image: np.ndarray
    mask: np.ndarray


class Generator:
    """The two networks of the package random-face, of which the second can be cut in two."""

    def __init__(self) -> None:
        self._folder = Path(importlib.util.find_spec("random_face").origin).parent / "data"
        self._core = openvino.Core()
        self._mapping = self._compiled(self._network("Mapping"))
        whole = self._network("Synthesis")
        self._coarse = self._compiled(openvino.Model([node(whole, LAYER)], whole.get_parameters()))

    def styles(self, seed: int, count: int) -> np.ndarray:
        noise = np.random.RandomState(seed).normal(size=(count, 512)).astype(np.float32)
        return np.stack([self._mapping([z[None]])[0][0] for z in noise])

    def features(self, style: np.ndarray) -> np.ndarray:
        """float32 (512, SIDE, SIDE) for a style (512,)."""
        return self._coarse([style[None]])[0][0]

    def picture(self, style: np.ndarray, features: np.ndarray) -> np.ndarray:
        """uint8 RGB (PIXELS * height, PIXELS * width, 3) from features (512, height, width)."""
        height, width = features.shape[1:]
        network = self._network("Synthesis")
        layer = node(network, LAYER)
        start = openvino.opset8.parameter([1, 512, height, width], np.float32, name="features")
        for end in layer.output(0).get_target_inputs():
            end.replace_source_output(start.output(0))
        for constant in network.get_ordered_ops():
            shape = list(constant.output(0).get_shape()) if constant.get_type_name() == "Constant" else []
            if len(shape) == 4 and shape[1] == 1 and shape[2] == shape[3] > SIDE:  # the noise of a layer
                scale = shape[2] // SIDE
                tiles = np.tile(constant.data, (1, 1, -(-height // SIDE), -(-width // SIDE)))
                larger = openvino.opset8.constant(tiles[..., : height * scale, : width * scale])
                for end in constant.output(0).get_target_inputs():
                    end.replace_source_output(larger.output(0))
        rest = openvino.Model(network.get_results(), [*network.get_parameters(), start])
        rest.validate_nodes_and_infer_types()
        drawn = self._compiled(rest)({"style": style[None], "features": features[None]})[0][0]
        return np.clip((drawn.transpose(1, 2, 0) + 1) * 127.5, 0, 255).astype(np.uint8)

    def _network(self, name: str) -> openvino.Model:
        return self._core.read_model(self._folder / f"{name}Network.xml")

    def _compiled(self, network: openvino.Model) -> openvino.CompiledModel:
        # In float32 the pictures are the same on processors with and without bf16.
        return self._core.compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    generator = Generator()
    mean = generator.styles(MEAN_SEED, MEAN_COUNT).mean(axis=0)
    styles = mean + TRUNCATION * (generator.styles(SEED, PEOPLE) - mean)

    def person(number: int, frame: Frame, scale: float) -> Person:
        return drawn_person(generator, styles[number], frame, scale)

    # The people were chosen by eye from the 60: adults who face the camera, whose clothes and hair go on well, and who
    # are not like ava (tests/unit/tools/test_places.py). 0.32 and 0.28 make faces of about 200 px.
    write(folder / "meadow/meadow.jpg", *alone(person(46, Frame(5, 13, 9, 9), 0.32), (512, 512)))
    woman = person(38, Frame(9, 17, 38, 16), 0.28)
    man = person(50, Frame(9, 17, 12, 42), 0.28)
    write(folder / "garden/garden.jpg", *beside(woman, man, (768, 512)))


def node(network: openvino.Model, name: str) -> openvino.Node:
    return next(op for op in network.get_ordered_ops() if op.get_friendly_name() == name)


def drawn_person(generator: Generator, style: np.ndarray, frame: Frame, scale: float) -> Person:
    """A person in a larger picture, reduced by `scale`."""
    image = generator.picture(style, framed(generator.features(style), frame))
    image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return Person(image, cut_out(image, frame))


def framed(features: np.ndarray, frame: Frame) -> np.ndarray:
    """Features (512, SIDE, SIDE) with more background above and beside, and more body below."""
    rng = np.random.default_rng(0)
    height, width = SIDE + frame.top, SIDE + frame.left + frame.right
    larger = np.empty((len(features), height, width), np.float32)
    for y in range(height):
        for x in range(width):
            row, column = y - frame.top, x - frame.left
            if row < 0:  # the upper corners, which are background even where hair reaches the edge
                edge = rng.integers(0, 4)
                row, column = rng.integers(0, 3), edge if rng.random() * SIDE > column else SIDE - 1 - edge
            elif not 0 <= column < SIDE:
                # Neighbours at random give leaves and shadows; the edge alone would give stripes.
                row = np.clip(row + rng.integers(-1, 2), 0, SIDE - 1)
                column = rng.integers(0, 2) if column < 0 else SIDE - 1 - rng.integers(0, 2)
            larger[:, y, x] = features[:, row, column]
    return np.concatenate([larger, body(larger[:, -1], frame, rng)], axis=1)


def body(lowest: np.ndarray, frame: Frame, rng: np.random.Generator) -> np.ndarray:
    """The rows (512, frame.bottom, width) below the lowest row (512, width): shoulders that grow wider, a collar, and
    clothes below it."""
    middle = frame.left + (SIDE - 1) / 2
    x = np.arange(lowest.shape[1]) - middle
    clothes = lowest[:, (np.abs(x) >= CLOTHES[0]) & (np.abs(x) <= CLOTHES[1])]
    rows = []
    for number in range(1, frame.bottom + 1):
        source = x / growth(number)
        row = lowest[:, np.clip(np.rint(middle + source), 0, len(x) - 1).astype(int)].copy()
        chest = np.flatnonzero((np.abs(source) < CLOTHES[0] + 0.5) & (np.abs(x) >= NECK - COLLAR * number))
        picked = clothes[:, rng.integers(0, clothes.shape[1], len(chest))]
        row[:, chest] = PLAIN * clothes.mean(axis=1, keepdims=True) + (1 - PLAIN) * picked
        rows.append(row)
    return np.stack(rows, axis=1)


def growth(row: np.ndarray | float) -> np.ndarray | float:
    """How much wider than at the portrait's lower edge the body is, so many features below it."""
    return 1 + SHOULDERS * (1 - np.exp(-row / SLOPE))


def cut_out(image: np.ndarray, frame: Frame) -> np.ndarray:
    """The opacity of the person, float32 (height, width), by GrabCut (Rother, Kolmogorov and Blake 2004)."""
    height, width = SIDE + frame.top + frame.bottom, SIDE + frame.left + frame.right
    size = CUT_WIDTH, round(CUT_WIDTH * height / width)
    y, x = np.mgrid[: size[1], : size[0]] * (width / CUT_WIDTH)  # in features
    x, y = (x - frame.left) / SIDE - HEAD_CENTER[0], (y - frame.top) / SIDE
    from_head = np.hypot(x / HEAD_SIZE[0], (y - HEAD_CENTER[1]) / HEAD_SIZE[1]) * 2
    from_neck = np.abs(x) * SIDE / growth(np.maximum(0, y - 1) * SIDE)
    labels = np.full(y.shape, cv2.GC_PR_BGD, np.uint8)
    labels[(from_head < 1.35) | ((y > 0.95) & (from_neck < 15))] = cv2.GC_PR_FGD
    labels[(from_head < 0.95) | ((y > 1.02) & (from_neck < CLOTHES[1]))] = cv2.GC_FGD
    labels[(y < 0) | ((y < 0.8) & (np.abs(x) > 0.52)) | (from_neck > 19)] = cv2.GC_BGD
    cv2.setRNGSeed(0)  # GrabCut starts its colour models by k-means, from random centres
    models = np.zeros((1, 65)), np.zeros((1, 65))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    cv2.grabCut(small, labels, None, *models, 6, cv2.GC_INIT_WITH_MASK)
    inside = np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.uint8)
    inside = cv2.morphologyEx(inside, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)).astype(np.float32)
    mask = cv2.resize(inside, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    # The outline is drawn inwards, because its px have the old background in them.
    return np.clip(3 * cv2.GaussianBlur(mask, (0, 0), 2.0) - 2, 0, 1)


def alone(person: Person, size: tuple[int, int]) -> tuple[np.ndarray, tuple[int, int]]:
    return over(out_of_focus(person), [person]), size


def beside(behind: Person, front: Person, size: tuple[int, int]) -> tuple[np.ndarray, tuple[int, int]]:
    """Two people in the place of the first. Both pictures have one size."""
    return over(out_of_focus(behind), [behind, front]), size


def over(image: np.ndarray, people: list[Person]) -> np.ndarray:
    image = image.astype(np.float32)
    for person in people:
        alpha = person.mask[..., None]
        image = alpha * person.image + (1 - alpha) * image
    return np.rint(image).astype(np.uint8)


def out_of_focus(person: Person) -> np.ndarray:
    """The background without the person, blurred as behind a portrait, which hides that it repeats."""
    weight = (1 - cv2.dilate(person.mask, np.ones((9, 9), np.uint8)))[..., None]
    blurred = np.zeros(person.image.shape, np.float32)
    for sigma in (60.0, 20.0, 7.0):  # wider where there is less of the background
        total = cv2.GaussianBlur(weight, (0, 0), sigma)[..., None]
        filled = cv2.GaussianBlur(weight * person.image, (0, 0), sigma) / np.maximum(total, 1e-4)
        share = np.clip(4 * total, 0, 1)
        blurred = share * filled + (1 - share) * blurred
    return blurred


def write(path: Path, image: np.ndarray, size: tuple[int, int]) -> None:
    """Save the middle of a picture, from its upper edge, as JPEG."""
    left = (image.shape[1] - size[0]) // 2
    image = image[: size[1], left : left + size[0], ::-1]
    path.write_bytes(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes())


if __name__ == "__main__":
    main()
