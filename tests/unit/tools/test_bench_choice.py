"""The rules that `make bench-choice` compares take what their programs would, and are judged by one measure."""

import numpy as np
import pandas as pd
import pytest

from bench_choice import RULES, Run, as_seen, judged_cells
from likeness.choosing.scores import f_beta
from made_run import SELECT, made_scores

# More alike with every epoch, and from the third on alike without being asked.
IDENTITY = {1: 0.3, 2: 0.5, 3: 0.7, 4: 0.8}
LEAKS = (3, 4)


@pytest.fixture
def scores() -> pd.DataFrame:
    asked = made_scores(
        lambda epoch, weight: IDENTITY[epoch] * weight, prompt_score=lambda epoch, weight: 1 - epoch / 10
    )
    untrained = made_scores(lambda epoch, weight: 0.9 if epoch in LEAKS else 0.1, prompts=["photo of a woman"])
    table = pd.concat([asked, untrained.assign(kind="untrained")], ignore_index=True)
    return table.assign(training_similarity=table["identity"])


def chosen(rule: str, scores: pd.DataFrame, validation: dict[int, float] | None = None) -> tuple[int, float]:
    return RULES[rule](Run(as_seen(scores), pd.Series(validation or {}), SELECT))


def test_every_rule_takes_what_it_says(scores):
    assert chosen("likeness", scores) == (2, 1.0), "the best that draws nobody without the trigger"
    assert chosen("last checkpoint", scores) == (4, 1.0)
    assert chosen("lowest validation loss", scores, {1: 0.3, 2: 0.2, 3: 0.1, 4: 0.2}) == (3, 1.0)
    falling = scores.assign(training_similarity=np.where(scores["epoch"] == 3, 0.9, scores["identity"]))
    assert chosen("EasyPhoto", falling) == (3, 1.0)
    assert chosen("CyberHarem", falling) == (3, 0.8)


def test_cyberharem_passes_over_corrupt_epochs_while_it_has_others():
    scores = made_scores(lambda epoch, weight: epoch / 20, epochs=12, weights=[0.8], seeds=(1, 2))
    scores["training_similarity"] = scores["identity"]
    assert chosen("CyberHarem", scores) == (12, 0.8)
    # Of 12 epochs it wants 4, from 12 that are sound enough or else the 8 soundest and their equals.
    broken = scores.assign(gate=np.where(scores["epoch"] > 10, "broken", ""))
    assert chosen("CyberHarem", broken) == (10, 0.8)


def test_no_rule_sees_a_leak_of_seeds_that_it_did_not_see(scores):
    """scores.tsv has a leak by all seeds; a rule gets it by those it was dealt."""
    everywhere = scores.assign(gate=np.where(scores["epoch"] > 0, "leak", ""))
    seen = as_seen(everywhere)
    assert set(seen.loc[seen["gate"] == "leak", "epoch"]) == set(LEAKS)
    assert set(seen["kind"]) == {"near"}, "and none of the pictures that only hold back a cell"


def test_a_judge_counts_a_leak_as_nothing_and_a_missing_face_as_no_identity(scores):
    scores.loc[scores["epoch"].eq(2) & scores["seed"].eq(1) & scores["kind"].eq("near"), "judge_identity"] = np.nan
    judged = judged_cells(scores, beta=2.0)
    full = f_beta(np.array([0.5]), np.array([0.8]), 2.0)[0]
    assert judged.loc[(2, 1.0)].tolist() == pytest.approx([0.75 * full] * 2), "one of four seeds has no face"
    assert judged.loc[(4, 1.0), "leaks_count"] == 0 < judged.loc[(4, 1.0), "drawn"]
    assert 0 not in judged.index.get_level_values("epoch"), "the base model is no choice"
