"""Runs that different models draw are compared on one scale of identity."""

import numpy as np
import pandas as pd
import pytest

from likeness.choosing.scores import picture_scores
from likeness.choosing.selection import compare
from made_run import SELECT, made_choice, made_scores

BETA = SELECT["beta"]


def run(similarity: float, floor: float, faceless: int = 0) -> pd.DataFrame:
    """The scored pictures of a run: faces of one similarity to the person, on a scale whose 0 is `floor`, and some
    pictures without a face."""
    identity = (similarity - floor) / (0.7 - floor)
    table = made_scores(lambda *cell: identity, epochs=1, weights=[1.0]).assign(floor=floor, identity_raw=similarity)
    without = table["epoch"].eq(1) & (table.groupby("epoch").cumcount() < faceless)
    table = table.assign(
        identity_raw=table["identity_raw"].mask(without), identity=table["identity"].mask(without, 0.0)
    )
    return table.assign(score=picture_scores(table, BETA))


def compared(**runs: pd.DataFrame) -> dict:
    choices = {name: made_choice(table) for name, table in runs.items()}
    return compare(runs, choices, bootstrap=200, seed=0)


def test_the_same_faces_are_as_good_whatever_their_own_model_draws():
    own = {"plain": run(0.5, floor=0.1), "finetune": run(0.5, floor=0.3)}
    assert own["plain"]["score"].iloc[-1] > own["finetune"]["score"].iloc[-1] + 0.1, "each on its own scale"
    result = compared(**own)
    assert result["own_scales"] and result["alike"] == ["plain", "finetune"]
    assert result["differences"] == {"plain": [0.0, 0.0], "finetune": [0.0, 0.0]}


def test_a_face_that_is_more_alike_wins_on_a_harder_scale():
    own = {"plain": run(0.5, floor=0.1), "finetune": run(0.55, floor=0.3)}
    assert own["plain"]["score"].iloc[-1] > own["finetune"]["score"].iloc[-1]
    result = compared(**own)
    assert (result["run"], result["alike"]) == ("finetune", ["finetune"])
    plain, finetune = ((raw - 0.2) / 0.5 for raw in (0.5, 0.55))
    expected = picture_scores(pd.DataFrame({"identity": [plain, finetune], "prompt_score": 1.0, "gate": ""}), BETA)
    assert result["differences"]["plain"] == pytest.approx([expected[0] - expected[1]] * 2, abs=1e-6)


def test_a_picture_without_a_face_is_nothing_on_any_scale():
    result = compared(plain=run(0.5, floor=0.1), finetune=run(0.5, floor=0.3, faceless=4))
    assert result["alike"] == ["plain"] and np.isfinite(result["differences"]["finetune"]).all()


def test_one_scale_stays_as_it_is():
    assert not compared(plain=run(0.5, floor=0.1), other=run(0.6, floor=0.1))["own_scales"]
