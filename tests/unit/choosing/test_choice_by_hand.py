"""A choice by hand: the numbers of that epoch and weight, beside what the measure would have taken."""

import pytest

from likeness.choosing.choice import advice
from likeness.choosing.selection import choose
from likeness.core.errors import LikenessError
from made_run import SELECT, made_scores


def test_what_a_person_chose_is_taken_with_its_own_numbers_and_beside_what_the_rule_takes():
    scores = made_scores(lambda *cell: {(3, 0.8): 0.8}.get(cell, 0.4), noise=0.05)
    by_rule, by_hand = choose(scores, **SELECT), choose(scores, **SELECT, by_hand=(2, 1.0))
    assert (by_hand["epoch"], by_hand["weight"], by_hand["by_hand"]) == (2, 1.0, True)
    cell = next(c for c in by_rule["cells"] if (c["epoch"], c["weight"]) == (2, 1.0))
    assert (by_hand["score"], by_hand["interval"]) == (cell["score"], cell["interval"])
    assert by_hand["measured_choice"] == {"epoch": 3, "weight": 0.8, "score": by_rule["score"]}
    assert by_hand["cells"] == by_rule["cells"] and not by_rule["by_hand"]
    use, instead = advice(by_hand)
    assert use == "Use epoch 2 at weight 1, chosen by hand"
    assert instead.startswith("The measure would have taken epoch 3 at weight 0.8, whose score is 0.")
    assert advice(choose(scores, **SELECT, by_hand=(3, 0.8)))[1] == "The measure takes the same."


@pytest.mark.parametrize("cell", [(0, 0.0), (9, 1.0), (2, 0.7)])
def test_a_choice_of_what_was_not_drawn_names_what_there_is(cell):
    with pytest.raises(LikenessError, match=r"of which nothing was drawn; take one of epochs 1, 2, 3 and 4 at weight"):
        choose(made_scores(lambda *cell: 0.5), **SELECT, by_hand=cell)
