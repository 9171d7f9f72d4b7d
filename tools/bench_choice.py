"""Compare our rule for choosing a checkpoint and a weight with rules of other programs, on the same runs.

    python tools/bench_choice.py [--folder FOLDER] [--at-once N] [--table TABLE.md]

The workflow trains the demonstration from three seeds, another person at a low rank, and both people for too long. Each
rule chooses by the pictures of some seeds. Its choice is judged on the pictures of the other seeds, by a recogniser
that no rule uses (dlib) and by prompt following. The score is F-beta, as in likeness.choosing.selection, and 0 if the
prompt without the trigger draws the person. FOLDER keeps the results, so that a stopped comparison can be resumed. It
takes hours: docs/choice.md.
"""

import argparse
import itertools
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import yaml
from tqdm import tqdm

from bench_base import ROOT, run_workflow
from bench_faces import hardware
from likeness.choosing.leaks import shows_face
from likeness.choosing.scores import CELL, SCORED_KINDS, f_beta, read_scores, without_leaks
from likeness.choosing.scoring import with_leak_gate
from likeness.choosing.selection import choose
from likeness.config.sections import Select
from likeness.core.manifests import read_table
from likeness.faces.detection import Detector
from likeness.faces.identity import Recogniser, similarity
from likeness.photos.images import read_photo

# A rule chooses by SEEN of these seeds, as many as the demonstration draws, and is judged on the others. Some seeds may
# draw faces that are like the person from the start, so all ways to split the seeds are averaged.
SEEDS, SEEN = (1, 2, 101, 102, 103, 104), 2
DEMONSTRATION = {f"seed{n}": {"train": {"seed": n}} for n in range(3)}
# Five times the demonstration's steps at a constant learning rate, so that the last epoch may be overfitted.
LONG = {"max_train_steps": 2000, "epochs": 10, "learning_rate": 2e-3, "lr_scheduler": "constant"}
RUNS = DEMONSTRATION | {"rank4": {"train": {"rank": 4, "alpha": 4}}, "long": {"train": LONG}}
JUDGED = [*(("ava", run) for run in DEMONSTRATION), ("otto", "rank4"), ("ava", "long"), ("otto", "long")]


class Run(NamedTuple):
    """The data that a rule may use: the scores of the counted pictures of the seen seeds, with `training_similarity`
    (mean SFace similarity to the training photos); the validation loss by epoch; and the bootstrap's settings."""

    scores: pd.DataFrame
    validation: pd.Series
    select: Mapping


Cell = tuple[int, float]


def ours(run: Run) -> Cell:
    choice = choose(run.scores, **run.select)
    return choice["epoch"], choice["weight"]


def last(run: Run) -> Cell:
    """The last checkpoint at weight 1, which people use without a choice."""
    return int(run.scores["epoch"].max()), 1.0


def lowest_validation_loss(run: Run) -> Cell:
    """The rule of trainers with a validation split (kohya's sd-scripts, OneTrainer)."""
    return int(run.validation.idxmin()), 1.0


def easyphoto(run: Run) -> Cell:
    """sd-webui-EasyPhoto's eval_jpg_with_faceid: the mean similarity to the training photos at weight 1."""
    pictures = run.scores[(run.scores["epoch"] > 0) & (run.scores["weight"] == 1.0)]
    return int(pictures.groupby("epoch")["training_similarity"].mean().idxmax()), 1.0


def cyberharem(run: Run) -> Cell:
    """CyberHarem's F-beta (beta 3) at weight 0.8 of fidelity to the training photos and of prompt following, each
    normalised over the checkpoints of the run. CyberHarem publishes a third of the checkpoints, but 3 to 5. It takes
    them from the checkpoints above a least share of sound pictures. This share falls from 1 until three times as many
    checkpoints remain. If that never happens, it takes them from twice as many soundest checkpoints, with ties
    (cyberharem/eval/eval.py)."""
    pictures = run.scores[(run.scores["epoch"] > 0) & (run.scores["weight"] == 0.8)]
    means = pictures.assign(sound=pictures["gate"] != "broken").groupby("epoch")
    means = means[["training_similarity", "prompt_score", "sound"]].mean()

    def normalised(values: pd.Series, least_spread: float) -> pd.Series:
        return ((values - values.mean()) / max(values.std(ddof=0), least_spread) * 0.2 + 0.6).clip(1e-6, 1)

    fidelity, obedience = normalised(means["training_similarity"], 1e-6), normalised(means["prompt_score"], 0.015)
    score = 10 * fidelity * obedience / (9 * obedience + fidelity)
    published = int(np.clip(len(score) / 3, 3, 5))
    for least in np.arange(1.0, 0.79, -0.05):
        eligible = score[means["sound"] >= least - 1e-9]
        if len(eligible) >= 3 * published:
            return int(eligible.idxmax()), 0.8
    return int(score[means["sound"].nlargest(2 * published, keep="all").index].idxmax()), 0.8


RULES: dict[str, Callable[[Run], Cell]] = {
    "likeness": ours,
    "last checkpoint": last,
    "lowest validation loss": lowest_validation_loss,
    "EasyPhoto": easyphoto,
    "CyberHarem": cyberharem,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--at-once", type=int, default=1, help="how many trainings share the machine")
    parser.add_argument("--table", type=Path, help="a Markdown file for the table")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (args.folder or Path(temporary)).resolve()
        train_and_draw(folder, args.at_once)
        rows = {f"{subject}, {run}": judged(folder, subject, run) for subject, run in JUDGED}
    means = {name: np.mean([row[name] for row in rows.values()], axis=0) for name in [*RULES, "best"]}
    text = markdown(rows | {"mean": means})
    ranks = [1 + sum(means[rule][judge] > means["likeness"][judge] for rule in RULES) for judge in range(2)]
    print(f"{hardware()}\n\n{text}")
    if args.table:
        args.table.write_text(text)
    print(f"\nrank where leaks do not count: {ranks[1]}")
    print(f"rank of our rule: {ranks[0]}")


def train_and_draw(folder: Path, at_once: int) -> None:
    """Run the workflow for JUDGED in `folder`, up to the scores of the pictures of all seeds."""
    config = yaml.safe_load((ROOT / "config.yaml").read_text())
    config |= {"subjects": yaml.safe_load((ROOT / "examples/two_people.yaml").read_text())["subjects"], "runs": RUNS}
    config["sample"]["seeds"] = list(SEEDS)
    folder.mkdir(parents=True, exist_ok=True)
    targets = [f"results/{subject}/{run}/scores.tsv" for subject, run in JUDGED]
    run_workflow(folder, config, *targets, "--resources", f"gpu={at_once}")


def judged(folder: Path, subject: str, run: str) -> dict[str, np.ndarray]:
    """The scores of every rule's choices in a run, and of the best cell: means over all ways to split the seeds, as
    [with leaks counted, without]."""
    select = Select().model_dump(include={"beta", "bootstrap", "confidence", "seed"})
    results = folder / f"results/{subject}/{run}"
    scores = read_scores(results / "scores.tsv")
    metrics = read_table(results / "log/metrics.tsv", epoch=int)
    validation = pd.to_numeric(metrics["validation_loss"], errors="coerce").groupby(metrics["epoch"]).last().dropna()
    scores["training_similarity"] = training_similarity(folder, subject, scores)
    values_by_rule = {name: [] for name in [*RULES, "best"]}
    for seen in itertools.combinations(SEEDS, SEEN):
        judges = judged_cells(scores[~scores["seed"].isin(seen)], select["beta"])
        view = Run(as_seen(scores[scores["seed"].isin(seen)]), validation, select)
        for rule, chosen in RULES.items():
            values_by_rule[rule].append(judges.loc[chosen(view)])
        values_by_rule["best"].append(judges.max())
    return {name: np.mean(values, axis=0) for name, values in values_by_rule.items()}


def as_seen(scores: pd.DataFrame) -> pd.DataFrame:
    """The counted pictures, with the gate "leak" computed from these seeds only; scores.tsv has it from all seeds."""
    rows = without_leaks(scores).to_dict("records")
    gated = pd.DataFrame(with_leak_gate(rows, Select().leak_limit))
    return gated[gated["kind"].isin(SCORED_KINDS)]


def judged_cells(scores: pd.DataFrame, beta: float) -> pd.DataFrame:
    """The mean F-beta of every cell by the judge's identity, which is 0 for a picture without a face. There are two
    columns: in `leaks_count` a cell is 0 if the judge recognises the person in the faces of the untrained prompts; in
    `drawn` it keeps its value."""
    trained = scores[scores["epoch"] > 0]
    rows = trained[trained["kind"].isin(SCORED_KINDS)]
    values = f_beta(rows["judge_identity"].fillna(0).to_numpy(float), rows["prompt_score"].to_numpy(float), beta)
    means = rows.assign(value=values).groupby(CELL)["value"].mean()
    faces = trained[(trained["kind"] == "untrained") & shows_face(trained)]
    leaks = faces.groupby(CELL)["judge_identity"].mean().reindex(means.index) > Select().leak_limit
    return pd.DataFrame({"leaks_count": means.mask(leaks, 0.0), "drawn": means})


def training_similarity(folder: Path, subject: str, scores: pd.DataFrame) -> list[float]:
    """The mean similarity of every picture to the training photos; 0 without a face."""
    models = folder / "results/models"
    detector, recogniser = Detector(models), Recogniser(models)

    def embedding(path: Path) -> np.ndarray | None:
        image = read_photo(path)
        faces = detector.faces(image)
        return recogniser.embedding(image, faces[0]) if faces else None

    crops = read_table(folder / f"results/{subject}/crops.tsv")
    embeddings = (
        embedding(folder / f"results/{subject}" / crop) for crop in crops.loc[crops["fate"] == "train", "crop"]
    )
    photos = [photo for photo in embeddings if photo is not None]
    pictures = (embedding(Path(image)) for image in tqdm(scores["image"], desc=subject, unit="picture"))
    return [0.0 if one is None else float(np.mean([similarity(one, photo) for photo in photos])) for one in pictures]


def markdown(rows: Mapping[str, Mapping[str, np.ndarray]]) -> str:
    """A table with a line per run: the score of each rule and, in brackets, the score without counting leaks."""
    names = [*RULES, "best"]
    lines = [f"| subject, run | {' | '.join(names)} |", "|---|" + "---|" * len(names)]
    for run, values in rows.items():
        lines.append(f"| {run} | {' | '.join('{:.3f} ({:.3f})'.format(*values[name]) for name in names)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
