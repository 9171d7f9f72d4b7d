"""Measure which settings make a LoRA more like the person, and which keep other people unchanged.

    python tools/bench_likeness.py [--folder FOLDER] [--methods NAME ...] [--people NAME ...] [--seeds N ...]
        [--at-once N] [--rows ROWS.tsv] [--table TABLE.md]

The workflow trains each person by each method from each seed. It draws the last epoch at weight 1 with seeds that are
not used for any choice. The table has these numbers for every method, each with half of its 95 % interval:

- the identity of the pictures of the person, and of the pictures of the class, by SFace and by dlib; dlib is used for
  no choice
- prompt following
- how different the pictures are from one another, as a share of the base model's
- the CPU time of a step, as a multiple of that of the method "none"

FOLDER keeps the results, so that a stopped comparison can be resumed. ROWS has a row for every measured training, also
of earlier comparisons, because all trainings together take a day. A training with a row is not run again.
"""

import argparse
import itertools
import json
import random
import re
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import yaml
from tqdm import tqdm

from bench_base import ROOT, run_workflow
from bench_faces import hardware
from likeness.choosing.leaks import shows_face
from likeness.choosing.scores import SCORED_KINDS, read_scores
from likeness.models.base_model import load_manifest, load_part
from likeness.models.conditioning import conditioning, load_text_encoders, load_tokenizers
from likeness.photos.images import read_photo
from likeness.training import loop, noise
from likeness.training.latents import load_latents
from likeness.training.losses import training_target
from likeness.training.pictures import Pictures
from likeness.training.settings import Settings
from likeness.training.store import RunStore

# All recommended settings were chosen on ava and otto; ida and emil were never used for tuning.
PEOPLE = ("ava", "otto", "ida", "emil")
SEEDS = (0, 1, 2)
JUDGED_SEEDS = tuple(range(201, 209))  # seeds of the pictures; nothing was chosen with them
# Twice the demonstration's first learning rate: without preservation, the class becomes the person in these steps.
RECIPE = {
    **{"max_train_steps": 400, "epochs": 1, "learning_rate": 2e-3, "lr_scheduler": "cosine", "batch_size": 4},
    **{"rank": 16, "alpha": 8, "precision": "fp32", "preserve_class": 0.0},
}
TIMED_STEPS = 10
# The columns that identify a training in the table of trainings.
TRAINING = ("method", "person", "seed")
MEASURED = (
    *("likeness, SFace", "likeness, dlib", "without the trigger, SFace", "without the trigger, dlib"),
    *("prompt", "diversity"),
)

PRESERVED = {"preserve_class": 2.0}
WITH_ENCODER = PRESERVED | {"train_text_encoder": True, "text_encoder_lr": 1e-3}
# The methods that are compared with "none" and, below the second comment, with "preserve 2".
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
    "trained trigger": PRESERVED,
}
# Methods with 100 regularisation pictures of the class, drawn by the base model.
WITH_CLASS_PICTURES = ("class pictures", "class pictures, answers", "text encoder, class pictures")
# Methods on a base model whose trigger embedding was trained first, in half as many steps, at the usual rate of textual
# inversion.
WITH_TRAINED_TRIGGER = ("trained trigger",)
TRIGGER_STEPS, TRIGGER_RATE = 200, 5e-3


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
            measured_methods = rows[(rows["person"] == person) & (rows["seed"] == seed)]["method"]
            new = [method for method in args.methods if method not in set(measured_methods)]
            # Few trainings per call, so that a stopped comparison loses few.
            for start in range(0, len(new), args.at_once):
                new_rows = trainings(folder, new[start : start + args.at_once], person, seed, args.at_once)
                rows = pd.concat([rows, pd.DataFrame(new_rows)], ignore_index=True)
                write_rows(args.rows, rows)
        costs = step_costs(folder, args.people[0], args.methods, args.at_once)
    selected = rows[rows["person"].isin(args.people) & rows["seed"].isin(args.seeds)]
    by_method = {method: selected[selected["method"] == method] for method in args.methods}
    text = markdown(by_method, costs)
    print(f"{hardware()}\n\n{text}")
    if args.table:
        args.table.write_text(text)
    likeness = {method: table["likeness, dlib"].mean() for method, table in by_method.items()}
    print(f"most like the person: {max(likeness, key=likeness.get)}")
    print(f"likeness: {max(likeness.values()):.3f}")


def trainings(folder: Path, methods: Sequence[str], person: str, seed: int, at_once: int) -> list[dict]:
    """The rows of these trainings. Trainings without results are run first."""
    projects = {method: project_of(folder, method, person, seed) for method in methods}
    for project, group in itertools.groupby(methods, projects.get):
        same = list(group)
        make(project, same, person, seed, [scores_of(person, method, seed) for method in same], at_once)
    return [measured(projects[method], method, person, seed) for method in methods]


def project_of(folder: Path, method: str, person: str, seed: int) -> Path:
    """The project folder of a training. A project has one base model, and a trained trigger needs its own."""
    return folder / run_name(method, seed) / person if method in WITH_TRAINED_TRIGGER else folder


def run_name(method: str, seed: int) -> str:
    return re.sub(r"\W+", "_", f"{method} {seed}")


def subject_name(person: str, method: str) -> str:
    return f"{person}_and_class" if method in WITH_CLASS_PICTURES else person


def scores_of(person: str, method: str, seed: int) -> str:
    return f"{subject_name(person, method)}/{run_name(method, seed)}/scores.tsv"


def read_rows(path: Path | None) -> pd.DataFrame:
    """The measured trainings; empty if the table does not exist yet."""
    return pd.read_csv(path, sep="\t") if path and path.is_file() else pd.DataFrame(columns=[*TRAINING, *MEASURED])


def write_rows(path: Path | None, rows: pd.DataFrame) -> None:
    if path:
        order = rows.sort_values(list(TRAINING), ignore_index=True)
        order.to_csv(path, sep="\t", index=False, float_format="%.4f")


def make(folder: Path, methods: Sequence[str], person: str, seed: int, targets: Sequence[str], at_once: int) -> None:
    """Run the workflow for result files: one person with each method from one seed."""
    config = yaml.safe_load((ROOT / "config.yaml").read_text())
    subject = yaml.safe_load((ROOT / "examples/four_people.yaml").read_text())["subjects"][person]
    config["subjects"] = {}
    for method in methods:
        class_pictures = {"regularisation": "generate"} if method in WITH_CLASS_PICTURES else {}
        config["subjects"][subject_name(person, method)] = subject | class_pictures
    if set(methods) & set(WITH_TRAINED_TRIGGER):
        config["base_model"] = str(base_with_trained_trigger(folder, person, subject["trigger"], seed, at_once))
    config["train"] = RECIPE
    config["sample"] |= {"weights": [1.0], "seeds": list(JUDGED_SEEDS)}
    config["runs"] = {run_name(method, seed): {"train": METHODS[method] | {"seed": seed}} for method in methods}
    folder.mkdir(parents=True, exist_ok=True)
    run_workflow(folder, config, *(f"results/{target}" for target in targets), "--resources", f"gpu={at_once}")


def base_with_trained_trigger(folder: Path, person: str, trigger: str, seed: int, at_once: int) -> Path:
    """A copy of the base model in which the embedding of the person's trigger was trained on the photos, by textual
    inversion (Gal et al. 2022, arXiv:2208.01618). It starts from the embeddings of the trigger's tokens."""
    copy = folder / "base"
    if copy.is_dir():
        return copy
    make(folder / "untrained", ["none"], person, seed, [f"{person}/latents.safetensors"], at_once)
    results = folder / "untrained/results"
    base, dataset = load_manifest(results / "base.json"), json.loads((results / person / "dataset.json").read_text())
    latents = load_latents(results / person / "latents.safetensors", dataset)
    settings = Settings(**(RECIPE | {"seed": seed})).filled_in()
    pictures = Pictures(settings, dataset, latents, torch.device("cpu"), [])
    unet, schedule = load_part(base, "unet"), load_part(base, "scheduler")
    (encoder,), (tokenizer,) = load_text_encoders(base), load_tokenizers(base)
    embeddings = encoder.get_input_embeddings().weight
    for model in (unet, encoder):
        model.requires_grad_(False)
    embeddings.requires_grad_(True)
    trained = torch.zeros(len(embeddings), 1)
    trained[tokenizer(trigger, add_special_tokens=False).input_ids] = 1
    optimizer = torch.optim.AdamW([embeddings], lr=TRIGGER_RATE, weight_decay=0)
    batches = random.Random(seed)
    for step in tqdm(range(TRIGGER_STEPS), desc=f"{person}'s trigger", unit="step"):
        batch = batches.choices(range(len(dataset["images"])), k=settings.batch_size)
        sampled = noise.sample(settings, step, pictures.shape(batch), schedule.config.num_train_timesteps)
        clean = pictures.clean(batch, sampled["posterior"], sampled["flipped"])
        noisy_latents = schedule.add_noise(clean, sampled["noise"], sampled["timesteps"])
        text = conditioning([encoder], pictures.tokens(batch, sampled["dropped"], []), clip_skip=1)
        model_pred = unet(noisy_latents, sampled["timesteps"], text.hidden).sample
        target = training_target(schedule, clean, sampled["noise"], sampled["timesteps"])
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(model_pred, target).backward()
        embeddings.grad *= trained
        optimizer.step()
    unfinished = folder / "unfinished base"
    shutil.copytree(base["path"], unfinished, dirs_exist_ok=True)
    encoder.save_pretrained(unfinished / "text_encoder")
    unfinished.rename(copy)
    return copy


def measured(folder: Path, method: str, person: str, seed: int) -> dict:
    """The row of a training: means over the pictures of the last epoch."""
    scores = read_scores(folder / "results" / scores_of(person, method, seed))
    last = scores[scores["epoch"] == scores["epoch"].max()]
    of_person = last[last["kind"].isin(SCORED_KINDS)]
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
    """The mean difference between two pictures of a prompt, in levels of 255."""
    pictures = scores[scores["kind"].isin(SCORED_KINDS)].groupby("prompt")["image"]
    pairs = itertools.chain.from_iterable(itertools.combinations(images, 2) for _, images in pictures)
    return float(np.mean([np.abs(pixels(a) - pixels(b)).mean() for a, b in pairs]))


def pixels(image: str) -> np.ndarray:
    return read_photo(Path(image)).astype(np.float32)


def step_costs(folder: Path, person: str, methods: Sequence[str], at_once: int) -> dict[str, float]:
    """The CPU time of a step, as a multiple of that of "none". Each time is that of the faster of two turns of
    TIMED_STEPS steps in this process, which other programs disturbed less."""
    results = folder / "results"
    timed = [*dict.fromkeys(["none", *methods])]
    latents = {f"{subject_name(person, method)}/latents.safetensors" for method in timed}
    make(folder, timed, person, SEEDS[0], sorted(latents), at_once)
    base = load_manifest(results / "base.json")
    loop.SECONDS_BETWEEN_READS = 0.0  # so that every step is reported

    def seconds(method: str) -> float:
        subject = results / subject_name(person, method)
        dataset = json.loads((subject / "dataset.json").read_text())
        latents = load_latents(subject / "latents.safetensors", dataset)
        settings = Settings(**(RECIPE | {"max_train_steps": TIMED_STEPS} | METHODS[method])).filled_in()
        times: list[float] = []
        with tempfile.TemporaryDirectory() as store:
            where = base, RunStore(Path(store)), torch.device("cpu")
            loop.train(settings, dataset, latents, *where, lambda rows: times.append(time.process_time()))
        return float(np.min(np.diff(times)))

    turns = tqdm(timed * 2, desc="cost", unit="method")
    times_by_method: dict[str, list[float]] = {}
    for method in turns:
        times_by_method.setdefault(method, []).append(seconds(method))
    return {method: min(costs) / min(times_by_method["none"]) for method, costs in times_by_method.items()}


def markdown(rows: Mapping[str, pd.DataFrame], costs: Mapping[str, float]) -> str:
    lines = [f"| method | trainings | {' | '.join(MEASURED)} | step |", "|---|" + "---|" * (len(MEASURED) + 2)]
    for method, table in rows.items():
        numbers = [f"{table[name].mean():.2f} ± {half_interval(table[name]):.2f}" for name in MEASURED]
        lines.append(f"| {method} | {len(table)} | {' | '.join(numbers)} | {costs[method]:.2f} |")
    return "\n".join(lines) + "\n"


def half_interval(values: pd.Series, draws: int = 2000) -> float:
    """Half of the width of the 95 % interval of the mean over trainings, by bootstrap."""
    resamples = np.random.default_rng(0).choice(values.to_numpy(float), (draws, len(values)))
    low, high = np.nanpercentile(np.nanmean(resamples, axis=1), [2.5, 97.5])
    return float(high - low) / 2


if __name__ == "__main__":
    main()
