"""Pages of made-up results, as the scripts write them: a report, a gallery, a page that compares runs, and a first
page."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from likeness.core.provenance import SCRIPTS, file_sha256
from likeness.drawing.marking import marked_png
from made_portraits import write_portraits
from made_run import (
    SELECT,
    build_report,
    made_choice,
    made_scores,
    made_untrained,
    write_metrics,
    write_run,
    write_subject,
)


def report_page(run: Path, ava: Path) -> Path:
    """The report of a run whose best cell is epoch 2 at weight 0.8, as written by the script."""
    levels = {(2, 0.8): 0.8, (3, 0.6): 0.8}
    gates = {(1, 0.6): "no_face", (3, 1.0): "copy"}
    scores = made_scores(
        lambda *cell: levels.get(cell, 0.3), epochs=3, seeds=(1, 2), gate=lambda *cell: gates.get(cell, "")
    )
    write_run(run, scores, 128, sorted(ava.glob("*.jpg"))[:9])
    write_subject(run / "subject", ava)
    write_metrics(run, 3, text_encoder=True)
    choice = made_choice(scores)
    (run / "choice.json").write_text(json.dumps(choice))
    build_report(run, run / "report.html")
    return run / "report.html"


def gallery_page(run: Path, ava: Path) -> Path:
    """The gallery of made portraits, as written by the script."""
    stranger, own = ava.with_name("otto") / "00.jpg", [ava / f"{n:02d}.jpg" for n in range(3)]
    build_gallery(write_portraits(run, stranger, own), run / "portraits.html")
    return run / "portraits.html"


def build_gallery(table: Path, page: Path) -> None:
    """Write the gallery; the folder of its previews is beside it."""
    options = {
        "--portraits": [table],
        "--cache": [page.parent / "cache"],
        "--page": [page],
        "--folder": [page.with_name("gallery")],
        "--config": [json.dumps({"subject_name": "ava", "run_name": "portrait"})],
    }
    run_script("build_gallery.py", options)


RUNS = {"portrait": {"rank": 16, "optimizer": "AdamW"}, "strong": {"rank": 64, "optimizer": "AdamW"}}


def runs_page(subject: Path, ava: Path) -> Path:
    """The page that compares two runs, as written by the script; the second run has the higher identity."""
    for name, level, photo in (("portrait", 0.4, "00.jpg"), ("strong", 0.7, "01.jpg")):
        scores = made_scores(lambda *cell, level=level: level, epochs=2, seeds=(1, 2), noise=0.05)
        without_trigger = made_untrained(lambda *cell, level=level: level / 2, epochs=2, seeds=(1, 2))
        scores = pd.concat([scores, without_trigger], ignore_index=True)
        write_run(subject / name, scores, 128, [ava / photo])
        choice = made_choice(scores, f"ava_{name}.safetensors")
        (subject / name / "best").mkdir()
        (subject / name / "best/choice.json").write_text(json.dumps(choice))
    compare_runs(subject, subject / "runs.html")
    return subject / "runs.html"


def compare_runs(subject: Path, page: Path) -> None:
    base = {"base_model": "demo", "base_revision": None, "vae": None, "prediction_type": None, "clip_skip": 1}
    sections = base | {"sample": {"steps": 25} | base, "select": SELECT}
    config = {"subject_name": "ava", "runs": {name: {"train": train, **sections} for name, train in RUNS.items()}}
    options = {
        "--choices": [subject / name / "best/choice.json" for name in RUNS],
        "--scores": [subject / name / "scores.tsv" for name in RUNS],
        "--samples": [table for name in RUNS for table in sorted((subject / name / "samples").glob("*.tsv"))],
        "--page": [page],
        "--config": [json.dumps(config)],
    }
    run_script("compare_runs.py", options)


PEOPLE = {"ava": ("ohwx", "woman"), "otto": ("sks", "man")}


def index_page(results: Path, ava: Path) -> Path:
    """The first page of two subjects with two runs each, as written by the script; every preview is another photo."""
    photos = iter(sorted(ava.glob("*.jpg")))
    for subject in PEOPLE:
        for run, level in (("portrait", 0.4), ("strong", 0.7)):
            without_trigger = made_untrained(lambda *cell, level=level: level / 8, epochs=2)
            scores = made_scores(lambda *cell, level=level: level, epochs=2, noise=0.05)
            scores = pd.concat([scores, without_trigger], ignore_index=True)
            choice = made_choice(scores, f"{subject}_{run}.safetensors")
            best = results / subject / run / "best"
            best.mkdir(parents=True)
            preview = best / f"{subject}_{run}.png"
            preview.write_bytes(marked_png(np.asarray(Image.open(next(photos)).convert("RGB"))))
            (best / "choice.json").write_text(json.dumps(choice | {"preview_sha256": file_sha256(preview)}))
    build_index(results, results / "index.html")
    return results / "index.html"


def build_index(results: Path, page: Path, galleries: Sequence[Path] = ()) -> None:
    subjects = {
        name: {"trigger": trigger, "class_noun": noun, "consent": "synthetic"}
        for name, (trigger, noun) in PEOPLE.items()
    }
    options = {
        "--choices": sorted(results.glob("*/*/best/choice.json")),
        "--previews": sorted(results.glob("*/*/best/*.png")),
        "--galleries": list(galleries),
        "--page": [page],
        "--config": [json.dumps({"subjects": subjects})],
    }
    run_script("build_index.py", options)


def run_script(script: str, options: dict[str, list]) -> None:
    words = [word for option, values in options.items() for word in (option, *values)]
    subprocess.run([sys.executable, SCRIPTS / script, *words], check=True)
