"""Measure the time and the memory of each stage of a scene, with a base model of full size and random weights.

    python tools/bench_passes.py [--bases sd15 sdxl] [--pictures 2] [--steps 25]

The weights do not change the speed. The scene has the size that its base model is used at. Its stages are those of
docs/portraits.md: plain, hires (by 1.5), and the face pass. A model of random weights draws no face, so the face pass
redraws the face of a picture of a person who does not exist. All pictures have the same face; each has its own seed.

The peak is that of the stage: on a GPU what tensors take there, on a CPU the memory of the process. On a CPU a step
of SDXL takes minutes, so fewer steps may be given. The last line is the time of all three stages over that of the first
one alone.
"""

import argparse
import json
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch

from bench_faces import ROOT, hardware
from bench_sample import random_lora
from full_body_scenes import scene
from likeness.config.sections import Sample
from likeness.core.devices import peak_memory, torch_device
from likeness.core.pinned_models import CLIP_VOCABULARY, fetch_models, model_path
from likeness.models.base_model import load_manifest, manifest
from likeness.models.families import FAMILIES
from likeness.photos.images import png_bytes
from likeness.portraits.face_pass import Framing
from likeness.portraits.redraw import redrawing
from likeness.portraits.scenes import SceneDrawing, drawn_stages, hires_pictures
from likeness.portraits.studio import FaceOfPicture, Person, Studio, studio_cache
from random_base import save_random

MODELS = ROOT / "results/models"
# The size of the first drawing, and the resolution at which the model was trained.
SIZES = {"sd15": (512, 768, 512), "sdxl": (1024, 1024, 1024)}
HIRES = 1.5
STEPS = Sample.model_fields["steps"].default
FIRST_SEED = 301
WEIGHT = 1.0


class Measured(NamedTuple):
    """The seconds for a picture of a stage, and the stage's peak memory in bytes."""

    stage: str
    size: tuple[int, int]
    steps: int
    seconds: float
    memory: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bases", nargs="+", default=list(SIZES), choices=SIZES)
    parser.add_argument("--pictures", type=int, default=2)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--folder", type=Path, help="keeps the base models")
    args = parser.parse_args()
    fetch_models(MODELS)
    device = torch_device()
    where = torch.cuda.get_device_name() if device.type == "cuda" else hardware()
    print(f"{where}; {args.pictures} pictures of {args.steps} steps\n")
    print("| base model | stage | size | steps drawn | seconds a picture | peak memory |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        for name in args.bases:
            seconds: dict[str, float] = {}
            for row in stages(name, (args.folder or Path(temporary)).resolve(), args.pictures, args.steps):
                seconds[row.stage] = row.seconds
                size = f"{row.size[0]} x {row.size[1]}"
                cells = [name, row.stage, size, row.steps, f"{row.seconds:.1f}", f"{row.memory / 1e9:.1f} GB"]
                print(f"| {' | '.join(map(str, cells))} |", flush=True)
    print(f"\ntime of {name} with both passes over the plain drawing: {sum(seconds.values()) / seconds['plain']:.2f}")


def stages(name: str, folder: Path, pictures: int, steps: int) -> Iterator[Measured]:
    """Each stage of a scene with one base model."""
    base = random_base(name, folder / name)
    lora = folder / f"{name}.safetensors"
    if not lora.is_file():
        random_lora(lora, base, 0)
    width, height, resolution = SIZES[name]
    seeds = list(range(FIRST_SEED, FIRST_SEED + pictures))
    settings = Sample(prompts=["photo of {subject}"]).model_dump()
    settings |= {"steps": steps, "clip_skip": 1, "prompt": "photo of {subject}", "scene_weight": WEIGHT, "seeds": seeds}
    settings |= {"width": width, "height": height, "hires": 1, "hires_strength": 0.35, "hires_upscaler": "Lanczos"}
    settings |= {"face_strength": 0, "face_prompt": "photo of {subject}"}
    person = Person("ava", lora, WEIGHT, "random", {"subject": "ohwx woman"}, Framing(0.45, 0.48))
    with tempfile.TemporaryDirectory() as temporary:
        args = Namespace(cache=Path(temporary), models=MODELS, weights=[])
        studio = Studio(studio_cache(args, __file__), base, MODELS, settings, (resolution, None))
        studio.redrawer(person)  # loaded before the time is taken
        drawing = SceneDrawing(studio, person, settings, resolution, [])
        with measured("plain", (width, height), steps, pictures) as found:
            plain = [of_seed[-1].picture for _, of_seed in drawn_stages(drawing)]
        yield from found
        size = round(HIRES * width), round(HIRES * height)
        with measured("hires", size, round(steps * settings["hires_strength"]), pictures) as found:
            hires_pictures(drawing._replace(settings=settings | {"hires": HIRES}), plain, seeds)
        yield from found
        image, _ = scene(0)
        body = studio.items.put(png_bytes(image), "body")
        faces = [FaceOfPicture(body, studio.faces(body)[0], seed) for seed in seeds]
        how = redrawing(settings, prompt="photo of ohwx woman", strength=0.4)
        with measured("face", (resolution, resolution), round(steps * how.strength), pictures) as found:
            studio.with_faces(faces, person, how, resolution)
        yield from found


def random_base(name: str, folder: Path) -> dict:
    """The base model of a family; it is written if it is not there yet."""
    if not (folder / "base.json").is_file():
        save_random(FAMILIES[name], model_path(MODELS, CLIP_VOCABULARY), folder, torch.float16)
        (folder / "base.json").write_text(json.dumps(manifest(name, folder, folder)))
    return load_manifest(folder / "base.json")


@contextmanager
def measured(stage: str, size: tuple[int, int], steps: int, pictures: int) -> Iterator[list[Measured]]:
    """A list that gets what the work within took."""
    device, found = torch_device(), []
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew (proc(5))
    began = time.perf_counter()
    yield found
    if device.type == "cuda":
        torch.cuda.synchronize()
    found.append(Measured(stage, size, steps, (time.perf_counter() - began) / pictures, peak_memory(device)))


if __name__ == "__main__":
    main()
