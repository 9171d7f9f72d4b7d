"""scores.tsv: the measurements of every picture, and the score that is computed from them."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from likeness.core.errors import LikenessError
from likeness.core.manifests import again, read_table
from likeness.drawing.samples import read_samples

# The kinds of prompts whose pictures count for the score: those that ask for the person alone. The pictures of the
# other kinds can only exclude a cell.
SCORED_KINDS = ("near", "far", "canary")
PAIR = ["prompt", "seed"]
CELL = ["epoch", "weight"]
NUMBERS = (
    *("identity", "identity_raw", "judge_identity", "copy", "prompt_score"),
    *("faces", "second_identity", "sharpness", "yaw", "pitch"),
)


def read_scores(path: Path) -> pd.DataFrame:
    """scores.tsv with the columns of numbers as float (NaN where there is none) and `image` as an absolute path."""
    table = read_table(path, epoch=int, weight=float, seed=int)
    for name in NUMBERS:
        table[name] = pd.to_numeric(table[name], errors="coerce")
    table["image"] = [str(path.parent.resolve() / image) for image in table["image"]]
    return table


def f_beta(identity: np.ndarray, prompt_score: np.ndarray, beta: float) -> np.ndarray:
    """One number per picture, 0 to 1: the weighted harmonic mean in which identity counts `beta` times as much.

    This is van Rijsbergen's effectiveness, F = (1 + b^2) P R / (b^2 P + R), with prompt following as P and identity as
    R. With a large beta it approaches identity, with a small one prompt following. If one of the two is 0, it is 0 for
    every beta. Both are clipped to 0..1 first: an identity above 1, that of the person's own photos, is not better.
    """
    recall, precision = np.clip(identity, 0.0, 1.0), np.clip(prompt_score, 0.0, 1.0)
    below = beta**2 * precision + recall
    return np.divide((1 + beta**2) * precision * recall, below, out=np.zeros_like(below), where=below > 0)


def picture_scores(scores: pd.DataFrame, beta: float) -> np.ndarray:
    """F-beta of every row; 0 for a picture that a gate excludes."""
    value = f_beta(scores["identity"].to_numpy(float), scores["prompt_score"].to_numpy(float), beta)
    return np.where(scores["gate"] == "", value, 0.0)


def without_leaks(scores: pd.DataFrame) -> pd.DataFrame:
    """The rows with the gate "leak" removed from the pictures that count. It stays on the pictures that showed the
    leak."""
    leaks = scores["kind"].isin(SCORED_KINDS) & (scores["gate"] == "leak")
    return scores.assign(gate=scores["gate"].mask(leaks, ""))


def with_gates_of_choice(scores: pd.DataFrame, choice: Mapping[str, Any]) -> pd.DataFrame:
    """The rows with the gates that the choice used: a choice with the evidence "leaking" ignored leaks."""
    return without_leaks(scores) if choice["evidence"] == "leaking" else scores


def in_chosen_cell(table: pd.DataFrame, choice: Mapping[str, Any]) -> pd.Series:
    """Whether a row's picture is in the chosen cell."""
    return (table["epoch"] == choice["epoch"]) & (table["weight"] == choice["weight"])


def measured_pictures(samples: Iterable[Path], scores: Path, choice: Mapping[str, Any]) -> pd.DataFrame:
    """Every picture with its measurements and its `score`: F-beta as in the choice, 0 if a gate excludes the picture.

    Raises LikenessError if samples and scores do not have the same pictures.
    """
    key = [*CELL, "kind", *PAIR]
    measured = read_scores(scores).drop(columns="image")
    table = read_samples(samples)[[*key, "image", "pixels"]].merge(measured, on=key, how="left", indicator=True)
    if (table["_merge"] != "both").any() or len(table) != len(measured):
        raise LikenessError(f"{scores}: not of these samples; {again('score_checkpoint')}")
    table = with_gates_of_choice(table.drop(columns="_merge"), choice)
    return table.assign(score=picture_scores(table, choice["beta"]))


def scored_pictures(samples: Iterable[Path], scores: Path, choice: Mapping[str, Any]) -> pd.DataFrame:
    """The `measured_pictures` that count for the score."""
    table = measured_pictures(samples, scores, choice)
    return table[table["kind"].isin(SCORED_KINDS)].reset_index(drop=True)


def picture_label(row: Mapping[str, Any]) -> str:
    """The text below a picture: its score, or the gate that excludes it. A picture of a kind that does not count has
    the identity of its faces instead."""
    if row["kind"] in SCORED_KINDS or row["gate"] not in ("", "leak"):
        return row["gate"].replace("_", " ") or f"{row['score']:.2f}"
    faces = [f"{face:.2f}" for face in (row["identity"], row["second_identity"]) if np.isfinite(face)]
    return " and ".join(faces) if len(faces) > 1 else f"identity {faces[0]}"
