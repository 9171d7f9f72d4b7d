"""Measure the report of a large run in a real browser: first paint, a filter click, and scrolling.

    python tools/bench_report.py [--turns 3]

tests/made_run.py makes two artificial runs: 10 checkpoints x 8 weights x 10 prompts x 4 seeds, and 5 x 4 x 5 x 2. The
workflow's program writes their reports, and Chromium opens them from disk at 1280 x 844 px. Their pictures have 512 x
512 px, and no two are equal. The pages take turns, so that other programs slow both down alike. Each page shows all
prompts and seeds at once. The measurements:

    first paint   from opening the page to the first contentful paint
    filter click  from a click that puts a column away, or shows it again, to the start of the second frame after it
    with pictures the same, until every visible picture is decoded
    scrolling     from the first row to the last, a third of a row per frame: the longest frame, and the 95th percentile

At 60 frames per second a frame takes 16.7 ms. The last line is the ratio of the median filter clicks, large page to
small page.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from bench_faces import hardware

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests")]

from chromium import opened, started  # noqa: E402
from likeness.report.thumbnails import QUALITY  # noqa: E402
from made_run import build_report, made_choice, made_scores, write_metrics, write_run, write_subject  # noqa: E402

SIDE = 512  # px; the size of SD 1.5's samples
SAMPLE = 64  # px of the samples' PNGs, which the report converts to JPEGs; larger PNGs would take minutes
SIZES = {"large": (10, 8, 10, 4), "small": (5, 4, 5, 2)}  # checkpoints, weights, prompts, seeds
CLICKS = 10  # per turn, of each kind of click
SHOW_ALL = "change({ at: { ...state.at, prompt: ALL, seed: ALL } })"
# Clicks the last heading, which puts its column away, or else the button beside "Put away", which shows it again.
CLICK = """const done = arguments[0], started = performance.now();
  const again = document.querySelector("#put-away button");
  (again ?? [...document.querySelectorAll(".headings .hider")].at(-1)).click();
  requestAnimationFrame(() => requestAnimationFrame(async () => {
    const frame = performance.now() - started;
    const box = sheet.getBoundingClientRect();
    const inSight = [...sheet.querySelectorAll("img")].filter((image) => {
      const edges = image.getBoundingClientRect();
      return edges.top < Math.min(box.bottom, innerHeight) && edges.left < box.right;
    });
    await Promise.all(inSight.map((image) => image.decode()));
    done([frame, performance.now() - started]);
  }));"""
SCROLL = """const done = arguments[0], frames = [];
  let before = performance.now();
  sheet.scrollTop = 0;
  const next = (now) => {
    frames.push(now - before);
    before = now;
    if (sheet.scrollTop + sheet.clientHeight >= sheet.scrollHeight - 1) return done(frames.slice(1));
    sheet.scrollTop += view.height / 3;
    requestAnimationFrame(next);
  };
  requestAnimationFrame(next);"""
PAINT = "return performance.getEntriesByName('first-contentful-paint')[0].startTime"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        pages = {name: made_page(folder / name, *size) for name, size in SIZES.items()}
        browser = started(folder / "profile")
        if not browser:
            sys.exit("no Chromium; run tools/system_libraries.sh browser")
        try:
            browser.set_script_timeout(300)
            turns = [{name: measured(browser, page) for name, page in pages.items()} for _ in range(args.turns)]
            version = browser.capabilities["browserVersion"]
        finally:
            browser.quit()
        sizes = {name: (len(page.read_bytes()), folder_size(page.with_suffix(""))) for name, page in pages.items()}
    print(f"{hardware()}; Chromium {version} without a GPU, 1280 x 844 px; ms, median of {args.turns} turns\n")
    print("cells   page MB  pictures MB  first paint  filter click  with pictures  frame, 95 %  longest frame")
    clicks = {}
    for name, size in SIZES.items():
        times = {key: statistics.median(turn[name][key] for turn in turns) for key in turns[0][name]}
        clicks[name] = times["click"]
        page, pictures = (count / 1e6 for count in sizes[name])
        print(
            f"{np.prod(size):5} {page:9.1f} {pictures:12.1f} {times['paint']:12.0f} {times['click']:13.1f} "
            f"{times['pictures']:14.1f} {times['frame']:12.1f} {max(turn[name]['longest'] for turn in turns):14.1f}"
        )
    print(f"\nfilter_click_3200_over_200: {clicks['large'] / clicks['small']:.2f}")


def made_page(folder: Path, epochs: int, weights: int, prompts: int, seeds: int) -> Path:
    """Write the report of a run of this size with the workflow's program."""
    ava = ROOT / "resources/people/ava"
    scores = made_scores(
        lambda epoch, weight: 0.8 - 0.02 * abs(epoch - 6) - 0.1 * abs(weight - 0.8),
        epochs=epochs,
        weights=[round(0.3 + 0.1 * n, 1) for n in range(weights)],
        prompts=[f"photo of ohwx woman, in scene {n}" for n in range(prompts)],
        seeds=range(1, seeds + 1),
        noise=0.05,
    )
    with ProcessPoolExecutor() as pool:
        faces = [path for path in sorted(ava.glob("*.jpg")) if path.stem.isdigit()]
        photos = list(pool.map(photo, [folder / "photos"] * len(scores), range(len(scores)), [faces] * len(scores)))
    write_run(folder, scores, SAMPLE, photos)
    write_subject(folder / "subject", ava)
    write_metrics(folder, epochs)
    choice = made_choice(scores)
    (folder / "choice.json").write_text(json.dumps(choice))
    build_report(folder, folder / "report.html")
    for picture, large in zip(sorted((folder / "report").iterdir()), photos, strict=False):
        large.replace(picture)
    return folder / "report.html"


def photo(folder: Path, number: int, faces: Sequence[Path]) -> Path:
    """A face, shifted by an amount that depends on the picture, 512 x 512 px, as the report would write it."""
    folder.mkdir(parents=True, exist_ok=True)
    round_by = 3 * (number // len(faces))
    pixels = np.asarray(Image.open(faces[number % len(faces)]).convert("RGB").resize((SIDE, SIDE)))
    Image.fromarray(np.roll(pixels, round_by, axis=1)).save(folder / f"{number}.jpg", quality=QUALITY)
    return folder / f"{number}.jpg"


def measured(browser, page: Path) -> dict[str, float]:
    """The times {paint, click, pictures, frame, longest} of one visit of a page, in ms."""
    opened(browser, page, 1280)
    paint = browser.execute_script(PAINT)
    browser.execute_script(SHOW_ALL)
    browser.execute_script("sheet.scrollIntoView()")
    clicks = np.array([browser.execute_async_script(CLICK) for _ in range(2 * CLICKS)])
    frames = browser.execute_async_script(SCROLL)
    click, pictures = np.median(clicks, axis=0)
    return {
        "paint": paint,
        "click": click,
        "pictures": pictures,
        "frame": float(np.percentile(frames, 95)),
        "longest": max(frames),
    }


def folder_size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


if __name__ == "__main__":
    main()
