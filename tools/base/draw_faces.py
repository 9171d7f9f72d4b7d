"""Draw the training faces of the demonstration's base model: one picture each of people who do not exist.

    python tools/base/draw_faces.py FOLDER --count 10000

The program runs in an environment that make_base.sh makes. It uses only the networks of the generator's package, whose
code does not run on a current OpenVINO.

It writes styles.npy, float32 (count, 512), and the pictures 000000.jpg and so on, 256 px. If it was stopped, it
continues with the missing pictures. The package has the licence Apache-2.0. Its generator (MobileStyleGAN) was
distilled from a StyleGAN2 trained on FFHQ, so it is for demonstrations only.
"""

import argparse
import importlib.util
import os
from pathlib import Path

import cv2
import numpy as np
import openvino
from tqdm import tqdm

# Other seeds in use: 1 for the people of the demonstration and the calibration, 7 for the strangers.
SEED = 2026
SIDE = 256  # px; twice the base model's size, so that a part of a picture is sharp enough
# The distance from the mean face: larger values give more variety and more broken faces. The demonstration's people
# have 0.7.
TRUNCATION = 0.8
QUALITY = 95


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, required=True)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    networks = Path(importlib.util.find_spec("random_face").origin).parent / "data"
    core = openvino.Core()
    # In float32 the pictures are the same on processors with and without bf16, at the same speed.
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    mapping, synthesis = (
        core.compile_model(str(networks / f"{name}Network.xml"), "CPU", exact) for name in ("Mapping", "Synthesis")
    )
    noise = np.random.RandomState(SEED).normal(size=(args.count, 512)).astype(np.float32)
    styles = np.stack([mapping([z[None]])[0][0] for z in noise])
    np.save(args.folder / "styles.npy", styles)
    mean = np.stack([mapping([z[None]])[0][0] for z in mean_noise()]).mean(axis=0)
    for i, style in enumerate(tqdm(styles, unit="face")):
        path = args.folder / f"{i:06d}.jpg"
        if not path.exists():
            write(path, picture(synthesis([(mean + TRUNCATION * (style - mean))[None]])[0][0]))


def mean_noise() -> np.ndarray:
    """The noise for the mean face, float32 (1000, 512). It does not depend on the count, so that no face depends on
    it."""
    return np.random.RandomState(SEED - 1).normal(size=(1000, 512)).astype(np.float32)


def picture(drawn: np.ndarray) -> np.ndarray:
    """uint8 BGR (SIDE, SIDE, 3) from the generator's float RGB (3, 1024, 1024), -1 to 1."""
    pixels = np.clip((drawn.transpose(1, 2, 0) + 1) * 127.5, 0, 255).astype(np.uint8)
    return cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_AREA)[:, :, ::-1]


def write(path: Path, image: np.ndarray) -> None:
    partial = path.with_name(f".{path.name}")
    partial.write_bytes(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes())
    os.replace(partial, path)


if __name__ == "__main__":
    main()
