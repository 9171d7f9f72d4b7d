"""Leaks of a LoRA: how much it draws the person although the prompt does not ask for the person."""

import pandas as pd
from scipy.optimize import isotonic_regression


def leak_likeness(scores: pd.DataFrame, kind: str) -> dict[tuple[int, float], float]:
    """{(epoch, weight): identity} of the pictures of a kind that does not ask for the person. The gate, the choice and
    the report all use this number. `scores` has the columns of scores.tsv. A cell is left out if none of its pictures
    shows the face that counts.

    The face that counts is the largest one for "untrained". For "two_people" it is the less alike of the two faces,
    because one of them may be the person. A picture without this face is ignored. If it counted as a stranger, a leak
    could go unnoticed where a strong LoRA draws faces only now and then.

    A cell has few pictures, so its number also depends on the other weights of its epoch. A LoRA has more effect at a
    higher weight, so the means of an epoch are made monotonic by isotonic regression, weighted by the number of
    pictures. If the true means are monotonic, the result is nearer to them (Barlow et al. 1972). A LoRA is trained at
    weight 1. Above it the faces may be spoiled, and the means may fall. So these weights keep their own means and do
    not influence others.
    """
    rows_of_kind = scores[scores["kind"] == kind]
    faces = rows_of_kind[["identity", "second_identity"] if kind == "two_people" else ["identity"]]
    identity = faces.apply(pd.to_numeric, errors="coerce").min(axis=1, skipna=False)
    identity_of_faces = identity[shows_face(rows_of_kind)].dropna()
    means = identity_of_faces.groupby([rows_of_kind["epoch"], rows_of_kind["weight"]]).agg(["mean", "count"])
    likeness: dict[tuple[int, float], float] = {}
    for _, cells in means.groupby("epoch"):
        ordered = cells[cells.index.get_level_values("weight") <= 1]
        rising = isotonic_regression(ordered["mean"], weights=ordered["count"]).x
        likeness |= cells["mean"].to_dict() | dict(zip(ordered.index, rising.tolist(), strict=True))
    return likeness


def shows_face(scores: pd.DataFrame) -> pd.Series:
    """Whether a row's picture shows a face."""
    return pd.to_numeric(scores["faces"]) > 0


def leaking_cells(scores: pd.DataFrame, leak_limit: float) -> set[tuple[int, float]]:
    """Every (epoch, weight) that draws the person although the prompt does not ask for the person. Both kinds have the
    same limit, because both measure whether somebody else looks like the person: above 0.5 a face is nearer to the
    person's own photos than to strangers. The base model cannot leak."""
    trained = scores[scores["epoch"] > 0]
    return {
        cell
        for kind in ("untrained", "two_people")
        for cell, likeness in leak_likeness(trained, kind).items()
        if likeness > leak_limit
    }
