"""Measure the stages of the data set on a folder of large photos: without a cache, again, and with one more photo.

    python tools/bench_dataset.py [--photos 200]

The photos are 4000 x 3000 JPEGs with one person of resources/ each, on backgrounds of tools/bench_faces.py. Every
twentieth face is small, so that Real-ESRGAN is used. Each stage is the program that the workflow runs, in a process of
its own. Its peak memory is read from the kernel (VmHWM). The models are fetched into results/models first.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from tqdm import tqdm

from bench_faces import MODELS, background, hardware, pasted, portraits

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from likeness.config.sections import Caption, Crop, Curate, Upscale  # noqa: E402
from likeness.core.devices import peak_resident  # noqa: E402

STAGES = ["detect_faces", "curate_photos", "crop_faces", "upscale_faces", "caption_faces", "build_dataset"]
FACE, SMALL_FACE = 900, 150  # px; with a crop of 512 px, the second is upscaled
SMALL_EVERY = 20
CONFIG = {
    "resolution": 512,
    "buckets": False,
    "curate": Curate().model_dump(),
    "crop": Crop().model_dump(),
    "upscale": Upscale().model_dump(),
    "caption": Caption().model_dump(),
    "subject": {"trigger": "ohwx", "class_noun": "woman", "reference": []},
    "decisions": {"photos": {}, "captions": {}},
    "train": {
        **{"max_train_steps": 2000, "epochs": 10, "repeats": None},
        **{"batch_size": 2, "gradient_accumulation_steps": 1},
    },
}


class Call(NamedTuple):
    """One run of one stage: seconds, peak memory in bytes, items computed (None for a stage without a cache)."""

    seconds: float
    memory: int
    computed: int | None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=200)
    args = parser.parse_args()
    threads = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prepare(folder)
        photos = made_photos(folder / "photos", args.photos + 1)
        cold = [call(folder, stage, photos[:-1], threads) for stage in STAGES]
        again = [call(folder, stage, photos[:-1], threads) for stage in STAGES]
        one_more = [call(folder, stage, photos, threads) for stage in STAGES]
        alone = call(folder, "detect_faces", photos[: max(4, args.photos // 10)], 1, cache="alone")
        together = call(folder, "detect_faces", photos[: max(4, args.photos // 10)], threads, cache="together")
    print(hardware())
    print(f"{args.photos} photos of 4000 x 3000, {threads} threads; seconds, photos per second, peak memory\n")
    print("stage            cold s  photos/s   again s  one more s  computed   peak MB")
    for stage, *calls in zip(STAGES, cold, again, one_more, strict=True):
        first, second, third = calls
        computed = "" if third.computed is None else f"{third.computed}"
        print(
            f"{stage:15} {first.seconds:7.1f} {args.photos / first.seconds:9.1f} {second.seconds:9.1f} "
            f"{third.seconds:11.1f} {computed:>9} {max(one.memory for one in calls) / 1e6:9.0f}"
        )
    total, more = sum(one.seconds for one in cold), sum(one.seconds for one in one_more)
    print(f"{'all':15} {total:7.1f} {args.photos / total:9.1f} {sum(o.seconds for o in again):9.1f} {more:11.1f}")
    print(f"\ndetect_faces in {threads} threads over one thread: {alone.seconds / together.seconds:.2f} times as fast")
    print(f"cold_over_one_more: {total / more:.1f}")


def prepare(folder: Path) -> None:
    """Fetch the models and the base model (for its tokenizer) as the workflow does."""
    run(folder, "fetch_models", "--models", MODELS, "--manifest", MODELS / "models.json")
    config = json.dumps({"base_model": "resources/base", "base_revision": None})
    where = ["--roots", ROOT, "--cache", "results/.cache/fetch_base", "--base", "results/base.json"]
    run(folder, "fetch_base", "--config", config, "--models", MODELS, *where)


def made_photos(folder: Path, count: int) -> list[Path]:
    folder.mkdir()
    with ProcessPoolExecutor() as pool:
        paths = pool.map(photo, [folder] * count, range(count))
        return list(tqdm(paths, total=count, desc="photos", unit="photo", disable=None))


def photo(folder: Path, number: int) -> Path:
    """A large photo of the subject; the same number gives the same bytes."""
    people = portraits(ROOT / "resources/people/ava")
    size = SMALL_FACE if number % SMALL_EVERY == 1 else FACE
    image, _ = pasted(background(number), [(people[number % len(people)], size, 0)], seed=number)
    path = folder / f"{number:04d}.jpg"
    Image.fromarray(image).save(path, quality=92)
    return path


def call(folder: Path, stage: str, photos: list[Path], threads: int, cache: str = "cache") -> Call:
    """Run one stage as its rule does."""
    results, caches = "results/ava", ["--cache", f"results/.{cache}/{stage}"]
    arguments = {
        "detect_faces": ["--photos", *photos, "--models", MODELS, *caches, "--faces", f"{results}/faces.tsv"],
        "curate_photos": ["--faces", f"{results}/faces.tsv", "--photos", f"{results}/photos.tsv"],
        "crop_faces": ["--photos", f"{results}/photos.tsv", *caches, *both(results, "crops")],
        "upscale_faces": ["--crops", f"{results}/crops.tsv", "--models", MODELS, *caches, *both(results, "upscaled")],
        "caption_faces": [
            *("--upscaled", f"{results}/upscaled.tsv", "--base", "results/base.json"),
            *(*caches, *both(results, "captions")),
        ],
        "build_dataset": [
            *("--photos", f"{results}/photos.tsv", "--captions", f"{results}/captions.tsv", *caches),
            *("--dataset", f"{results}/dataset.json", "--folder", f"{results}/image", "--reg-folder", f"{results}/reg"),
        ],
    }[stage]
    return run(folder, stage, "--config", json.dumps(CONFIG), "--threads", threads, *arguments)


def both(results: str, name: str) -> list[str]:
    """The options for a stage's table and folder."""
    return [f"--{name}", f"{results}/{name}.tsv", "--folder", f"{results}/{name}"]


def run(folder: Path, script: str, *arguments: object) -> Call:
    """Run one program of scripts/ in a folder; ends this program if it fails."""
    started = time.monotonic()
    command = [sys.executable, str(ROOT / f"scripts/{script}.py"), *map(str, arguments)]
    memory = 0
    with open(folder / f"{script}.log", "w+") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
        while process.poll() is None:
            memory = max(memory, peak_resident(process.pid))
            time.sleep(0.02)
        log.seek(0)
        text = log.read()
    if process.returncode:
        sys.exit(f"{script} failed:\n{text}")
    counts = re.findall(r"items: (\d+) computed", text)
    return Call(time.monotonic() - started, memory, int(counts[-1]) if counts else None)


if __name__ == "__main__":
    main()
