"""Measure what makes a LoRA more like the person, and what keeps everybody else as they were.

    python tools/bench_likeness.py [--folder FOLDER] [--methods NAME ...] [--people NAME ...] [--seeds N ...]
        [--at-once N] [--rows ROWS.tsv] [--table TABLE.md]

The real workflow trains each person by each method from each seed, and draws the last epoch at weight 1 from seeds that
choose nothing. Of every method the table says how like the person the pictures are and how like them the pictures of
the class are, each by SFace and by dlib, which neither trains nor chooses; how much of the prompt is followed; how
different the pictures are from one another, as a share of the base model's; and the CPU time of a step, as a multiple
of that without anything. Behind each number stands half of its 95 % interval. FOLDER keeps the results, so that a
stopped comparison goes on. ROWS has a row for every training that was measured, in earlier comparisons too: all of
them would take a day, so that they come together over several. A training that has its row is not made again.
"""

import argparse
import itertools
import json
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import yaml
from bench_base import ROOT, run_workflow
from bench_faces import hardware
from tqdm import tqdm

from likeness.base_model import load_manifest
from likeness.config import Train
from likeness.images import read_photo
from likeness.latents import load_latents
from likeness.leaks import shows_face
from likeness.selection import COUNTED, read_scores
from likeness.training import loop
from likeness.training.store import RunStore

# ida and emil are kept out of every tuning: what is recommended was chosen on ava and otto.
PEOPLE = ("ava", "otto", "ida", "emil")
SEEDS = (0, 1, 2)
JUDGED_SEEDS = tuple(range(201, 209))  # of the pictures; nothing was chosen by them
# Twice the demonstration's first rate, at which the class becomes the person within these steps.
RECIPE = {
    **{"max_train_steps": 400, "epochs": 1, "learning_rate": 2e-3, "lr_scheduler": "cosine", "batch_size": 4},
    **{"rank": 16, "alpha": 8, "precision": "fp32", "preserve_class": 0.0},
}
TIMED_STEPS = 10
# A row of the table of trainings.
TRAINING = ("method", "person", "seed")
MEASURED = (
    *("likeness, SFace", "likeness, dlib", "without the trigger, SFace", "without the trigger, dlib"),
    *("prompt", "diversity"),
)

PRESERVED = {"preserve_class": 2.0}
WITH_ENCODER = PRESERVED | {"train_text_encoder": True, "text_encoder_lr": 1e-3}
# What is compared with "none" and, below the second line, with "preserve 2".
METHODS: dict[str, dict] = {
    "none": {},
    "text encoder alone": {"train_text_encoder": True, "text_encoder_lr": 1e-3},
    "masked prior alone": {"masked_loss": True, "masked_prior": 1.0},
    **{f"preserve {weight:g}": {"preserve_class": weight} for weight in (0.5, 1.0, 2.0, 5.0)},
    "share 1": PRESERVED | {"preserve_class_share": 1.0},
    "share 0.25": PRESERVED | {"preserve_class_share": 0.25},
    "masked prior": PRESERVED | {"masked_loss": True, "masked_prior": 1.0},
    "EMA": PRESERVED | {"ema_decay": 0.99},
    "min-SNR": PRESERVED | {"min_snr_gamma": 5.0},
    "caption dropout": PRESERVED | {"caption_dropout_rate": 0.1},
    "rank 4": PRESERVED | {"rank": 4, "alpha": 4},
    "rank 64": PRESERVED | {"rank": 64, "alpha": 32},
    "LoCon": PRESERVED | {"network": "locon", "conv_rank": 16, "conv_alpha": 8},
    "LoKr": PRESERVED | {"network": "lokr"},
    "twice the rate": PRESERVED | {"learning_rate": 4e-3},
    "text encoder": WITH_ENCODER,
    "text encoder, preserve 1": WITH_ENCODER | {"preserve_class": 1.0},
    "text encoder, rank 64": WITH_ENCODER | {"rank": 64, "alpha": 32},
    "text encoder, rank 64, batch 2": WITH_ENCODER | {"rank": 64, "alpha": 32, "batch_size": 2},
    "text encoder, LoRA+ 4": WITH_ENCODER | {"loraplus_lr_ratio": 4.0},
    "text encoder, middle timesteps": WITH_ENCODER | {"timestep_sampling": "sigmoid"},
    "text encoder, DCO": WITH_ENCODER | {"dco_beta": 1000.0},
    "class pictures": {},
    "class pictures, answers": {"prior_prediction": True},
    "text encoder, class pictures": {"train_text_encoder": True, "text_encoder_lr": 1e-3},
}
# With 100 pictures of the class, drawn by the base model, beside the photos.
WITH_CLASS_PICTURES = ("class pictures", "class pictures, answers", "text encoder, class pictures")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--people", nargs="+", default=PEOPLE, choices=PEOPLE)
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--rows", type=Path, help="trainings that were measured; those of this comparison are added")
    parser.add_argument("--at-once", type=int, default=1, help="how many trainings share the machine")
    parser.add_argument("--table", type=Path, help="a Markdown file for the table")
    args = parser.parse_args()
    rows = read_rows(args.rows)
    with tempfile.TemporaryDirectory() as temporary:
        folder = (args.folder or Path(temporary)).resolve()
        for seed, person in itertools.product(args.seeds, args.people):
            known = rows[(rows["person"] == person) & (rows["seed"] == seed)]["method"]
            new = [method for method in args.methods if method not in set(known)]
            if new:
                make(folder, new, person, seed, [scores_of(person, method, seed) for method in new], args.at_once)
                made = [measured(folder, method, person, seed) for method in new]
                rows = pd.concat([rows, pd.DataFrame(made)], ignore_index=True)
                write_rows(args.rows, rows)
        costs = step_costs(folder, args.people[0], args.methods, args.at_once)
    asked = rows[rows["person"].isin(args.people) & rows["seed"].isin(args.seeds)]
    by_method = {method: asked[asked["method"] == method] for method in args.methods}
    text = markdown(by_method, costs)
    print(f"{hardware()}\n\n{text}")
    if args.table:
        args.table.write_text(text)
    likeness = {method: table["likeness, dlib"].mean() for method, table in by_method.items()}
    print(f"most like the person: {max(likeness, key=likeness.get)}")
    print(f"likeness: {max(likeness.values()):.3f}")


def run_name(method: str, seed: int) -> str:
    return re.sub(r"\W+", "_", f"{method} {seed}")


def subject_name(person: str, method: str) -> str:
    return f"{person}_and_class" if method in WITH_CLASS_PICTURES else person


def scores_of(person: str, method: str, seed: int) -> str:
    return f"{subject_name(person, method)}/{run_name(method, seed)}/scores.tsv"


def read_rows(path: Path | None) -> pd.DataFrame:
    """The trainings that were measured; none where there is no such table yet."""
    return pd.read_csv(path, sep="\t") if path and path.is_file() else pd.DataFrame(columns=[*TRAINING, *MEASURED])


def write_rows(path: Path | None, rows: pd.DataFrame) -> None:
    if path:
        order = rows.sort_values(list(TRAINING), ignore_index=True)
        order.to_csv(path, sep="\t", index=False, float_format="%.4f")


def make(folder: Path, methods: Sequence[str], person: str, seed: int, targets: Sequence[str], at_once: int) -> None:
    """Make files of the results, by the workflow of one person with each method from one seed."""
    config = yaml.safe_load((ROOT / "config.yaml").read_text())
    subject = yaml.safe_load((ROOT / "examples/four_people.yaml").read_text())["subjects"][person]
    config["subjects"] = {}
    for method in methods:
        drawn = {"regularisation": "generate"} if method in WITH_CLASS_PICTURES else {}
        config["subjects"][subject_name(person, method)] = subject | drawn
    config["train"] = RECIPE
    config["sample"] |= {"weights": [1.0], "seeds": list(JUDGED_SEEDS)}
    config["runs"] = {run_name(method, seed): {"train": METHODS[method] | {"seed": seed}} for method in methods}
    folder.mkdir(parents=True, exist_ok=True)
    run_workflow(folder, config, *(f"results/{target}" for target in targets), "--resources", f"gpu={at_once}")


def measured(folder: Path, method: str, person: str, seed: int) -> dict:
    """The row of a training: its means over the pictures of the last epoch."""
    scores = read_scores(folder / "results" / scores_of(person, method, seed))
    last = scores[scores["epoch"] == scores["epoch"].max()]
    of_person = last[last["kind"].isin(COUNTED)]
    of_class = last[(last["kind"] == "untrained") & shows_face(last)]
    means = (
        of_person["identity"].mean(),
        of_person["judge_identity"].fillna(0).mean(),
        of_class["identity"].mean(),
        of_class["judge_identity"].mean(),
        of_person["prompt_score"].mean(),
        spread(of_person) / spread(scores[scores["epoch"] == 0]),
    )
    return dict(zip((*TRAINING, *MEASURED), (method, person, seed, *means), strict=True))


def spread(scores: pd.DataFrame) -> float:
    """The mean difference of two pictures of one prompt, in levels of 255."""
    pictures = scores[scores["kind"].isin(COUNTED)].groupby("prompt")["image"]
    pairs = itertools.chain.from_iterable(itertools.combinations(images, 2) for _, images in pictures)
    return float(np.mean([np.abs(pixels(a) - pixels(b)).mean() for a, b in pairs]))


def pixels(image: str) -> np.ndarray:
    return read_photo(Path(image)).astype(np.float32)


def step_costs(folder: Path, person: str, methods: Sequence[str], at_once: int) -> dict[str, float]:
    """The CPU time of a step, as a multiple of that of "none": each the fastest of two turns of TIMED_STEPS steps in
    this process, as other programs disturb those least."""
    results = folder / "results"
    timed = [*dict.fromkeys(["none", *methods])]
    latents = {f"{subject_name(person, method)}/latents.safetensors" for method in timed}
    make(folder, timed, person, SEEDS[0], sorted(latents), at_once)
    base = load_manifest(results / "base.json")
    loop.SETTLE_SECONDS = 0.0  # so that every step is reported

    def seconds(method: str) -> float:
        subject = results / subject_name(person, method)
        dataset = json.loads((subject / "dataset.json").read_text())
        latents = load_latents(subject / "latents.safetensors", dataset)
        train = Train(**(RECIPE | {"max_train_steps": TIMED_STEPS} | METHODS[method]))
        times: list[float] = []
        with tempfile.TemporaryDirectory() as store:
            settings = train.with_schedule() | {"clip_skip": 1}
            where = base, RunStore(Path(store)), torch.device("cpu")
            loop.train(settings, dataset, latents, *where, lambda rows: times.append(time.process_time()))
        return float(np.min(np.diff(times)))

    turns = tqdm(timed * 2, desc="cost", unit="method")
    found: dict[str, list[float]] = {}
    for method in turns:
        found.setdefault(method, []).append(seconds(method))
    return {method: min(costs) / min(found["none"]) for method, costs in found.items()}


def markdown(rows: Mapping[str, pd.DataFrame], costs: Mapping[str, float]) -> str:
    lines = [f"| method | trainings | {' | '.join(MEASURED)} | step |", "|---|" + "---|" * (len(MEASURED) + 2)]
    for method, table in rows.items():
        numbers = [f"{table[name].mean():.2f} ± {half_interval(table[name]):.2f}" for name in MEASURED]
        lines.append(f"| {method} | {len(table)} | {' | '.join(numbers)} | {costs[method]:.2f} |")
    return "\n".join(lines) + "\n"


def half_interval(values: pd.Series, draws: int = 2000) -> float:
    """Half of the 95 % interval of the mean over trainings, by bootstrap."""
    drawn = np.random.default_rng(0).choice(values.to_numpy(float), (draws, len(values)))
    low, high = np.nanpercentile(np.nanmean(drawn, axis=1), [2.5, 97.5])
    return float(high - low) / 2


if __name__ == "__main__":
    main()
