"""Whether a LoRA leaks: how much of the person is on the pictures whose prompt does not ask for the person."""

import pandas as pd
from scipy.optimize import isotonic_regression


def leak_likeness(scores: pd.DataFrame, kind: str) -> dict[tuple[int, float], float]:
    """{(epoch, weight): identity} that the pictures of a kind show where nobody asked for it: the one number that the
    gate, the choice and the report go by. `scores` has the columns of scores.tsv; a cell without a picture that tells
    is left out.

    "untrained": the largest face. "two_people": the less alike of the two faces, as one of them may be the person. A
    picture without that face tells nothing of whom the class has become; to count it as a stranger would let a leak
    pass where a strong LoRA draws faces only now and then.

    A cell has few pictures, so the other weights of its epoch have a say. A LoRA draws more of what it learned at a
    higher weight, so the means of an epoch are brought into rising order: by isotonic regression, in which each mean
    counts by its pictures. Where that order is true the result lies nearer to the truth than the means do (Barlow et
    al. 1972). Above weight 1, at which it was trained, a LoRA may spoil the faces: there the order need not hold, so
    these weights have no say for others and keep their own mean.
    """
    asked = scores[scores["kind"] == kind]
    faces = asked[["identity", "second_identity"] if kind == "two_people" else ["identity"]]
    identity = faces.apply(pd.to_numeric, errors="coerce").min(axis=1, skipna=False)
    telling = identity[shows_face(asked)].dropna()
    means = telling.groupby([asked["epoch"], asked["weight"]]).agg(["mean", "count"])
    likeness = {}
    for _, cells in means.groupby("epoch"):
        ordered = cells[cells.index.get_level_values("weight") <= 1]
        rising = isotonic_regression(ordered["mean"], weights=ordered["count"]).x
        likeness |= cells["mean"].to_dict() | dict(zip(ordered.index, rising.tolist(), strict=True))
    return likeness


def shows_face(scores: pd.DataFrame) -> pd.Series:
    return pd.to_numeric(scores["faces"]) > 0


def leaking_cells(scores: pd.DataFrame, leak_limit: float) -> set[tuple[int, float]]:
    """Every (epoch, weight) that draws the person unasked. One limit for both kinds, because both ask whether somebody
    else has become the person: at 0.5 a face is nearer to the person's own photos than to strangers. The base model
    cannot leak."""
    trained = scores[scores["epoch"] > 0]
    return {
        cell
        for kind in ("untrained", "two_people")
        for cell, likeness in leak_likeness(trained, kind).items()
        if likeness > leak_limit
    }
