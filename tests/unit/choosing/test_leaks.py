"""Whether the class has become the person is told by all pictures that tell, and the gate goes by what is reported."""

import numpy as np
import pandas as pd
import pytest

from likeness.choosing.leaks import leak_likeness, leaking_cells
from likeness.choosing.scoring import with_leak_gate
from made_run import UNTRAINED, made_scores, made_untrained

LIMIT = 0.5


def untrained(level, noise: float = 0.0, **options) -> pd.DataFrame:
    """Pictures without the trigger: `level` of (epoch, weight), and of each picture a noise of its own."""
    table = made_untrained(level, **options)
    return table.assign(identity=table["identity"] + noise * np.random.default_rng(3).normal(size=len(table)))


def plain_means(table: pd.DataFrame) -> pd.Series:
    return table[table["epoch"] > 0].groupby(["epoch", "weight"])["identity"].mean()


def test_all_prompts_and_seeds_of_a_cell_count():
    table = untrained(lambda *cell: 0.2, epochs=1, weights=[1.0], seeds=(1, 2))
    table.loc[table["prompt"] == UNTRAINED[1], "identity"] = 0.6
    assert leak_likeness(table, "untrained")[1, 1.0] == pytest.approx(0.4)


def test_means_that_rise_with_the_weight_stay_as_they_are():
    likeness = leak_likeness(untrained(lambda epoch, weight: weight - 0.2 * epoch, epochs=2), "untrained")
    assert [likeness[1, w] for w in (0.6, 0.8, 1.0)] == pytest.approx([0.4, 0.6, 0.8])
    assert [likeness[2, w] for w in (0.6, 0.8, 1.0)] == pytest.approx([0.2, 0.4, 0.6]), "each epoch for itself"


def test_a_lower_weight_that_seems_to_leak_more_is_pooled_with_the_higher_one_by_their_pictures():
    table = untrained(lambda epoch, weight: {0.6: 0.6, 0.8: 0.3, 1.0: 0.9}[weight], epochs=1, seeds=(1, 2))
    told = leak_likeness(table, "untrained")
    assert [told[1, w] for w in (0.6, 0.8, 1.0)] == pytest.approx([0.45, 0.45, 0.9])
    assert leaking_cells(table, LIMIT) == {(1, 1.0)}
    # With three of the four pictures at 0.8 gone, the one that is left weighs a quarter of those at 0.6.
    gone = table["weight"].eq(0.8) & ~(table["seed"].eq(1) & table["prompt"].eq(UNTRAINED[0]))
    assert leak_likeness(table[~gone], "untrained")[1, 0.6] == pytest.approx((4 * 0.6 + 0.3) / 5)


def test_a_weight_that_is_too_strong_for_its_faces_does_not_hide_the_leak_of_the_others():
    table = untrained(lambda epoch, weight: {0.8: 0.55, 1.0: 0.6, 1.6: 0.1}[weight], epochs=1, weights=[0.8, 1.0, 1.6])
    assert leaking_cells(table, LIMIT) == {(1, 0.8), (1, 1.0)}
    assert leak_likeness(table, "untrained")[1, 1.6] == pytest.approx(0.1)
    alone = table[table["weight"] == 1.6]
    assert leak_likeness(alone, "untrained") == {(1, 1.6): pytest.approx(0.1)}


def test_a_picture_without_a_face_does_not_hide_a_leak():
    """A LoRA that is far too strong draws faces now and then: who they are is what counts."""
    table = untrained(lambda *cell: 0.9, epochs=1, weights=[0.6, 1.0], seeds=(1, 2))
    without = table["weight"].eq(1.0) & table["seed"].eq(1)
    table.loc[without, ["faces", "identity"]] = [0, 0.0]
    assert leaking_cells(table, LIMIT) == {(1, 0.6), (1, 1.0)}
    table.loc[table["weight"].eq(1.0), ["faces", "identity"]] = [0, 0.0]
    assert leaking_cells(table, LIMIT) == {(1, 0.6)}, "of a cell without any face nobody can tell"


def test_of_two_people_the_less_alike_counts_where_both_are_seen():
    table = untrained(lambda *cell: 0.9, epochs=1, weights=[1.0], seeds=(1, 2)).assign(kind="two_people")
    second = np.where(table["prompt"] == UNTRAINED[0], np.where(table["seed"] == 1, "0.2", "0.4"), "")
    likeness = leak_likeness(table.assign(second_identity=second), "two_people")
    assert likeness[1, 1.0] == pytest.approx(0.3)
    assert leak_likeness(table, "two_people") == {}, "no second face anywhere"


@pytest.mark.parametrize("level", [(0.3, 0.45, 0.6), (0.45, 0.5, 0.55), (0.2, 0.55, 0.6), (0.4, 0.4, 0.4)])
def test_with_noise_it_is_nearer_to_the_truth_than_the_plain_mean_and_decides_rightly_more_often(level):
    """A known answer, 500 times, with as much noise as pictures of strangers have (choice.NOISE)."""
    truth = dict(zip((0.6, 0.8, 1.0), level, strict=True))
    table = untrained(lambda epoch, weight: truth[weight], noise=0.2, epochs=500, seeds=(1, 2))
    plain = plain_means(table)
    likeness = pd.Series(leak_likeness(table[table["epoch"] > 0], "untrained"))
    right = np.array([truth[weight] for _, weight in plain.index])
    assert ((likeness - right) ** 2).mean() < 0.9 * ((plain - right) ** 2).mean()
    clear = right != LIMIT  # at the limit itself there is no right answer
    decided = [((values > LIMIT) == (right > LIMIT))[clear].mean() for values in (likeness, plain)]
    assert decided[0] > decided[1]


def test_the_gate_holds_back_the_cells_whose_reported_number_is_over_the_limit():
    without_trigger = untrained(lambda epoch, weight: 0.2 * epoch * weight, noise=0.5)
    asked = made_scores(lambda *cell: 0.7)
    every = pd.concat([asked, without_trigger], ignore_index=True)
    rows = pd.DataFrame(with_leak_gate(every.to_dict("records"), LIMIT))
    held_back = set(rows.loc[rows["gate"] == "leak", ["epoch", "weight"]].itertuples(index=False, name=None))
    likeness = leak_likeness(without_trigger, "untrained")
    assert held_back == {cell for cell, value in likeness.items() if value > LIMIT and cell[0]}
    assert 0 < len(held_back) < 12 and set(rows.loc[rows["epoch"] == 0, "gate"]) == {""}
    over = plain_means(without_trigger)[lambda means: means > LIMIT]
    assert held_back != set(over.index), "the noise puts some cells of a rising row out of order"
