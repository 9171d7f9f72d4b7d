"""Measure what makes a LoRA more like the person, and what keeps everybody else as they were.

    python tools/bench_likeness.py [--folder FOLDER] [--methods NAME ...] [--people NAME ...] [--seeds N ...]
        [--at-once N] [--table TABLE.md]

The real workflow trains each person by each method from each seed, and draws the last epoch at weight 1 from seeds that
choose nothing. Of every method it then says, by the recogniser that neither trains nor chooses (dlib) and by SFace: how
like the person the pictures are, how like them the pictures of the class are (the leak), how much of the prompt is
followed, how different the pictures are from one another, and how long a step takes. Intervals are of 95 %, by a
bootstrap over people, trainings and pictures. FOLDER keeps the results, so that a stopped comparison goes on.
"""

import argparse
import itertools
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import yaml
from bench_base import ROOT, run_workflow
from bench_faces import hardware

from likeness.selection import COUNTED, read_scores

# ida and emil are kept out of every tuning: what is recommended was chosen on ava and otto.
PEOPLE = ("ava", "otto", "ida", "emil")
SEEDS = (0, 1, 2)
# Seeds of the pictures, which nothing was chosen by.
JUDGED_SEEDS = tuple(range(201, 209))
# The trial's recipe: twice the demonstration's rate, which goes too far without anything that preserves the class.
RECIPE = {"max_train_steps": 400, "epochs": 1, "learning_rate": 2e-3, "rank": 16, "alpha": 8, "batch_size": 4}

PRESERVED = {"preserve_class": 2.0}
# What is compared with "none", and, from masked_prior on, with "preserve2".
METHODS: dict[str, dict] = {
    "none": {},
    **{f"preserve{weight:g}".replace(".", ""): {"preserve_class": weight} for weight in (0.5, 1.0, 2.0, 5.0)},
    "preserve2_all": PRESERVED | {"preserve_class_share": 1.0},
    "preserve2_quarter": PRESERVED | {"preserve_class_share": 0.25},
    "masked_prior_alone": {"masked_loss": True, "masked_prior": 1.0},
    "masked_prior": PRESERVED | {"masked_loss": True, "masked_prior": 1.0},
    "text_encoder": PRESERVED | {"train_text_encoder": True, "text_encoder_lr": 2e-4},
    "ema": PRESERVED | {"ema_decay": 0.99},
    "min_snr": PRESERVED | {"min_snr_gamma": 5.0},
    "rank4": PRESERVED | {"rank": 4, "alpha": 4},
    "rank64": PRESERVED | {"rank": 64, "alpha": 32},
    "locon": PRESERVED | {"network": "locon", "conv_rank": 16, "conv_alpha": 8},
    "lokr": PRESERVED | {"network": "lokr"},
    "dropout": PRESERVED | {"caption_dropout_rate": 0.1},
    "twice_the_rate": PRESERVED | {"learning_rate": 4e-3},
    "batch8": PRESERVED | {"batch_size": 8},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--people", nargs="+", default=PEOPLE, choices=PEOPLE)
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--at-once", type=int, default=1, help="how many trainings share the machine")
    parser.add_argument("--table", type=Path, help="a Markdown file for the table")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (args.folder or Path(temporary)).resolve()
        train_and_draw(folder, args.methods, args.people, args.seeds, args.at_once)
        pictures = {method: pictures_of(folder, method, args.people, args.seeds) for method in args.methods}
    text = markdown({method: summary(table) for method, table in pictures.items()})
    print(f"{hardware()}\n\n{text}")
    if args.table:
        args.table.write_text(text)


def train_and_draw(
    folder: Path, methods: Sequence[str], people: Sequence[str], seeds: Sequence[int], at_once: int
) -> None:
    """Every person by every method from every seed, with the pictures measured."""
    config = yaml.safe_load((ROOT / "config.yaml").read_text())
    subjects = yaml.safe_load((ROOT / "examples/bench_people.yaml").read_text())["subjects"]
    config["subjects"] = {name: subjects[name] for name in people}
    config["train"] = config["train"] | RECIPE | {"preserve_class": 0.0}
    config["sample"] |= {"weights": [1.0], "seeds": list(JUDGED_SEEDS)}
    config["runs"] = {
        f"{method}_{seed}": {"train": METHODS[method] | {"seed": seed}}
        for method, seed in itertools.product(methods, seeds)
    }
    folder.mkdir(parents=True, exist_ok=True)
    targets = [f"results/{person}/{run}/scores.tsv" for run in config["runs"] for person in people]
    run_workflow(folder, config, *targets, "--resources", f"gpu={at_once}")


def pictures_of(folder: Path, method: str, people: Sequence[str], seeds: Sequence[int]) -> pd.DataFrame:
    """Every picture of the last epoch, of all people and trainings."""
    found = []
    for person, seed in itertools.product(people, seeds):
        scores = read_scores(folder / f"results/{person}/{method}_{seed}/scores.tsv")
        found.append(scores[scores["epoch"] == scores["epoch"].max()].assign(person=person, training=seed))
    return pd.concat(found, ignore_index=True)


def summary(pictures: pd.DataFrame) -> dict[str, float]:
    """The means over trainings, each of its pictures."""
    of_person = pictures[pictures["kind"].isin(COUNTED)]
    of_class = pictures[pictures["kind"] == "untrained"]
    columns = {"identity": of_person, "judge_identity": of_person, "prompt_score": of_person, "face_found": of_person}
    found = {name: by_training(table, name).mean() for name, table in columns.items()}
    leaks = {f"leak_{name}": by_training(of_class, name).mean() for name in ("identity", "judge_identity")}
    return found | leaks | {"spread": by_training(of_person, "judge_identity").std(ddof=1)}


def by_training(table: pd.DataFrame, name: str) -> pd.Series:
    values = table.assign(value=pd.to_numeric(table[name]).fillna(0))
    return values.groupby(["person", "training"])["value"].mean()


def markdown(rows: Mapping[str, Mapping[str, float]]) -> str:
    names = list(next(iter(rows.values())))
    lines = [f"| method | {' | '.join(names)} |", "|---|" + "---|" * len(names)]
    lines += [f"| {method} | {' | '.join(f'{row[name]:.3f}' for name in names)} |" for method, row in rows.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
