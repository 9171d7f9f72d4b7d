"""Weight 1 and the latest epoch, unless the pictures speak against them, and only inside the gates."""

import numpy as np
import pandas as pd
import pytest

from likeness.choosing.choice import advice, separation
from likeness.choosing.scores import f_beta, measured_pictures, picture_scores, scored_pictures
from likeness.choosing.selection import choose, compare
from likeness.core.errors import LikenessError
from made_run import PROMPTS, SELECT, made_scores, made_untrained, write_run


def chosen(scores: pd.DataFrame, **select) -> tuple[int, float]:
    choice = choose(scores, **{**SELECT, **select})
    return choice["epoch"], choice["weight"]


def test_identity_counts_beta_times_as_much_as_prompt_following():
    likeness, obedience = np.array([0.9, 0.3]), np.array([0.3, 0.9])
    alike, obedient = f_beta(likeness, obedience, 2.0)
    assert alike == pytest.approx(5 * 0.3 * 0.9 / (4 * 0.3 + 0.9))
    assert alike > obedient
    assert f_beta(likeness, obedience, 1.0) == pytest.approx([0.45, 0.45])
    assert f_beta(likeness, obedience, 1000.0) == pytest.approx(likeness, abs=1e-3)
    assert f_beta(likeness, obedience, 0.001) == pytest.approx(obedience, abs=1e-3)


def test_f_beta_is_zero_without_either_and_gives_no_merit_above_one():
    assert f_beta(np.array([0.0, 0.8, -0.2]), np.array([1.0, 0.0, 1.0]), 2.0).tolist() == [0, 0, 0]
    assert f_beta(np.array([1.7]), np.array([1.0]), 2.0).tolist() == [1.0]


def test_a_clear_best_cell_is_chosen():
    levels = {(3, 0.8): 0.8}
    choice = choose(made_scores(lambda *cell: levels.get(cell, 0.4), noise=0.05), **SELECT)
    assert (choice["epoch"], choice["weight"]) == (3, 0.8)
    assert choice["indistinguishable"] == [[3, 0.8]]
    assert choice["evidence"] == "measured"
    assert choice["better_than_base"]
    low, high = choice["interval"]
    assert low < choice["score"] < high


def test_of_equal_cells_the_latest_epoch_is_taken_at_the_weight_nearest_to_1():
    choice = choose(made_scores(lambda epoch, weight: 0.7 if 1 < epoch < 4 and weight > 0.6 else 0.2), **SELECT)
    assert (choice["epoch"], choice["weight"]) == (3, 1.0)
    assert choice["indistinguishable"] == [[e, w] for e in (2, 3) for w in (0.8, 1.0)]
    assert advice(choice)[1].startswith("Settings of epochs 2 and 3 cannot be told apart, on 8 pictures each.")
    assert "Of these, this one scores highest and has the weight nearest to 1." in advice(choice)[1]
    one_epoch = choose(made_scores(lambda epoch, weight: 0.7 if epoch == 3 and weight > 0.6 else 0.2), **SELECT)
    assert advice(one_epoch)[1] == "Weights 0.8 and 1 of epoch 3 cannot be told apart, on 8 pictures each."
    above = made_scores(lambda *cell: 0.7, weights=[0.8, 1.2])
    assert chosen(above) == (4, 0.8), "the lower of two weights that are as near"


def wobbling(level, **more) -> pd.DataFrame:
    """Scores whose pictures differ by chance from cell to cell, not only from seed to seed."""
    scores = made_scores(level, noise=0.0, **more)
    wobble = np.random.default_rng(5).normal(0, 0.05, len(scores))
    scores["identity"] += np.where(scores["epoch"] > 0, wobble, 0)
    return scores


def test_another_epoch_that_is_better_by_less_than_the_noise_is_not_gone_back_to():
    choice = choose(wobbling(lambda epoch, weight: {1: 0.3}.get(epoch, 0.6), weights=[1.0]), **SELECT)
    assert choice["epoch"] == 4
    assert {epoch for epoch, _ in choice["indistinguishable"]} == {2, 3, 4}


def test_later_epochs_that_are_spoilt_are_not_taken():
    assert chosen(wobbling(lambda epoch, weight: {1: 0.5, 3: 0.45, 4: 0.1}.get(epoch, 0.6), weights=[1.0])) == (2, 1.0)


def test_another_weight_than_1_needs_evidence():
    """By which 95 % part the cells: one standard error is enough for an epoch, not for a weight."""
    scores = wobbling(lambda epoch, weight: 0.53 if weight == 1 else 0.56, epochs=1, seeds=[1, 2], weights=[0.8, 1.0])
    choice = choose(scores, **SELECT)
    assert (choice["epoch"], choice["weight"]) == (1, 1.0) and [1, 1.0] in choice["indistinguishable"]
    assert choice["cells"][0]["score"] > choice["cells"][1]["score"] + 0.01
    assert chosen(wobbling(lambda epoch, weight: 0.4 if weight == 1 else 0.56, weights=[0.8, 1.0])) == (4, 0.8)


def test_an_epoch_is_compared_with_those_at_its_weight():
    """The best cell is at another weight, from which those at weight 1 cannot be told apart; the last of these is worse
    than the one before it."""
    levels = {(2, 0.8): 0.62, (2, 1.0): 0.60, (3, 1.0): 0.60, (4, 1.0): 0.50}
    choice = choose(wobbling(lambda *cell: levels.get(cell, 0.3), weights=[0.8, 1.0]), **SELECT)
    assert (choice["epoch"], choice["weight"]) == (3, 1.0)
    reason = "Of these the weight nearest to 1 is taken, then the latest epoch that scores nearly best at it."
    assert reason in advice(choice)[1]


def test_what_few_pictures_cannot_tell_apart_is_not_taken_for_that_alone():
    """One lucky picture of four: no interval of 95 % parts the first epoch from the last, which is far more alike."""
    scores = made_scores(lambda epoch, weight: 0.15 * epoch, prompts=PROMPTS[:1], seeds=[1, 2, 3, 4], weights=[1.0])
    scores.loc[(scores["epoch"] == 1) & (scores["seed"] == 1), "identity"] = 0.85
    choice = choose(scores, **SELECT)
    assert [1, 1.0] in choice["indistinguishable"] and choice["epoch"] == 4


def test_pairing_sees_a_small_difference_under_a_large_spread_between_seeds():
    scores = made_scores(lambda epoch, weight: 0.4 + 0.05 * epoch, weights=[1.0], noise=0.1)
    spread, step = scores[scores["epoch"] == 4]["identity"].std(), 0.05
    assert spread > step
    assert chosen(scores) == (4, 1.0)


def test_an_overfitting_later_epoch_loses_by_prompt_following():
    scores = made_scores(
        lambda epoch, weight: min(0.3 * epoch, 0.8), prompt_score=lambda epoch, weight: {4: 0.3}.get(epoch, 1.0)
    )
    assert chosen(scores) == (3, 1.0)


@pytest.mark.parametrize("reason", ["copy", "leak", "several_faces", "broken"])
def test_what_a_gate_holds_back_is_never_chosen(reason):
    scores = made_scores(lambda epoch, weight: 0.2 * epoch, gate=lambda epoch, weight: reason if epoch == 4 else "")
    choice = choose(scores, **SELECT)
    assert choice["epoch"] == 3
    held_back = [cell for cell in choice["cells"] if cell["epoch"] == 4]
    assert all(cell["gates"] == {reason: 8} and cell["score"] == 0 for cell in held_back)


def test_a_cell_without_one_picture_inside_the_gates_is_no_equal_of_a_lucky_one():
    """Of 4 pairs one passes in epoch 2 alone: a third of the draws miss it, and then every cell is 0."""
    scores = made_scores(lambda epoch, weight: 0.8, epochs=2, weights=[1.0], seeds=[1, 2], gate=lambda *cell: "no_face")
    scores.loc[scores["epoch"].eq(2) & scores["prompt"].eq(PROMPTS[0]) & scores["seed"].eq(1), "gate"] = ""
    choice = choose(scores, **SELECT)
    assert choice["indistinguishable"] == [[2, 1.0]]


def test_the_base_model_is_reported_and_never_chosen():
    scores = made_scores(lambda epoch, weight: 0.5)
    scores.loc[scores["epoch"] == 0, "identity"] = 0.9
    choice = choose(scores, **SELECT)
    assert choice["base"]["score"] > choice["score"]
    assert [0, 0.0] not in choice["indistinguishable"]
    assert choice["epoch"] == 4
    assert not choice["better_than_base"]
    assert "base model" in advice(choice)[1]


def test_prompts_keep_the_order_of_the_configuration(tmp_path):
    scores = made_scores(lambda *cell: 0.5, prompts=["z", "a"])
    write_run(tmp_path, scores)
    table = scored_pictures(sorted(tmp_path.glob("samples/*.tsv")), tmp_path / "scores.tsv", choose(scores, **SELECT))
    assert table["prompt"].unique().tolist() == ["z", "a"]
    assert table["epoch"].is_monotonic_increasing


def test_no_face_anywhere_takes_what_people_take_and_says_so():
    scores = made_scores(lambda *cell: 0.0, weights=[0.6, 0.9, 1.1], gate=lambda *cell: "no_face")
    choice = choose(scores, **SELECT)
    assert choice["evidence"] == "none"
    assert (choice["epoch"], choice["weight"]) == (4, 0.9)
    assert "no face" in choice["rule"]
    assert choice["indistinguishable"] == []
    assert advice(choice)[1].startswith("No evidence: ")


def test_where_every_cell_that_shows_the_person_leaks_the_best_of_them_is_chosen_and_said_to_leak():
    levels = {2: 0.7, 3: 0.7}
    scores = made_scores(lambda epoch, weight: levels.get(epoch, 0.3), gate=lambda *cell: "leak")
    choice = choose(scores, **SELECT)
    assert (choice["epoch"], choice["weight"], choice["evidence"]) == (3, 1.0, "leaking")
    assert "also where the prompt does not name them" in advice(choice)[1]
    assert "leaks are let pass" in choice["rule"]
    scores.loc[scores["epoch"].eq(1), "gate"] = ""
    choice = choose(scores, **SELECT)
    assert (choice["epoch"], choice["evidence"]) == (1, "measured"), (
        "one that does not leak is better than any that does"
    )


def test_a_harmless_cell_that_shows_a_stranger_or_nothing_is_no_reason_to_take_the_last():
    """Where a leak could be avoided by taking it: what it draws is not the person."""
    for identity, gate in ((-0.05, ""), (0.6, "broken")):
        levels, gates = {1: identity, 2: 0.7, 3: 0.7}, {1: gate}
        scores = made_scores(
            lambda epoch, weight, levels=levels: levels[epoch],
            epochs=3,
            gate=lambda epoch, weight, gates=gates: gates.get(epoch, "leak"),
        )
        choice = choose(scores, **SELECT)
        assert (choice["epoch"], choice["evidence"]) == (3, "leaking")


def test_the_pictures_of_a_leaking_choice_have_the_scores_that_it_was_made_by(tmp_path):
    scores = made_scores(lambda epoch, weight: 0.2 * epoch, gate=lambda *cell: "leak")
    untrained = scores[scores["prompt"] == PROMPTS[0]].assign(kind="untrained", prompt="photo of a woman")
    write_run(tmp_path, pd.concat([scores, untrained], ignore_index=True))
    choice = choose(scores, **SELECT)
    table = measured_pictures(sorted(tmp_path.glob("samples/*.tsv")), tmp_path / "scores.tsv", choice)
    near = table[table["kind"] == "near"]
    means = near.groupby(["epoch", "weight"])["score"].mean()
    for cell in choice["cells"]:
        assert means[cell["epoch"], cell["weight"]] == pytest.approx(cell["score"], abs=1e-6)
    assert set(table.loc[(table["kind"] == "untrained") & (table["epoch"] > 0), "gate"]) == {"leak"}


def test_faces_that_are_all_like_the_base_models_are_no_evidence():
    choice = choose(made_scores(lambda *cell: -0.1), **SELECT)
    assert choice["evidence"] == "none"
    assert "base model" in choice["rule"]


def test_the_untrained_prompts_do_not_count():
    scores = made_scores(lambda epoch, weight: 0.1 * epoch)
    other = scores.assign(kind="untrained", prompt="photo of a woman", identity=9.0 - scores["epoch"])
    with_others, alone = choose(pd.concat([scores, other]), **SELECT), choose(scores, **SELECT)
    for cell in (with_others["base"], *with_others["cells"], alone["base"], *alone["cells"]):
        del cell["untrained"], cell["untrained_judge"]
    assert with_others == alone


def test_every_cell_says_what_the_gate_went_by_and_what_the_second_recogniser_sees():
    """The number of the gate is drawn from the weights beside it; that of the second recogniser is a plain mean."""
    scores = made_scores(lambda *cell: 0.7, epochs=2)
    without_trigger = made_untrained(lambda *cell: 0.2, epochs=2)
    without_trigger = without_trigger.assign(judge_identity=0.1 * without_trigger["seed"])
    without_trigger.loc[without_trigger["epoch"].eq(1) & without_trigger["weight"].eq(0.6), "identity"] = 0.4
    without_trigger.loc[without_trigger["seed"].eq(1), ["faces", "identity", "judge_identity"]] = [0, 0.0, 0.0]
    pairs = scores[scores["prompt"] == PROMPTS[0]].assign(kind="two_people", prompt="beside a man", second_identity=0.1)
    choice = choose(pd.concat([scores, without_trigger, pairs], ignore_index=True), **SELECT)
    cells = {(cell["epoch"], cell["weight"]): cell for cell in (choice["base"], *choice["cells"])}
    assert cells[1, 0.6]["untrained"] == cells[1, 0.8]["untrained"] == pytest.approx((0.4 + 0.2 + 0.2) / 3, abs=1e-6)
    assert cells[2, 0.6]["untrained"] == pytest.approx(0.2) and cells[0, 0.0]["untrained"] == 0
    assert {cell["untrained_judge"] for cell in cells.values()} == {0.3}, "of seeds 2 to 4: seed 1 shows no face"
    assert {key: cell["two_people"] for key, cell in cells.items()} == {key: 0.1 if key[0] else 0.0 for key in cells}
    alone = choose(scores, **SELECT)
    assert [alone["cells"][0][name] for name in ("untrained", "untrained_judge", "two_people")] == [None] * 3


@pytest.mark.parametrize(
    ("likeness", "limit", "said"),
    [
        (0.03, 0.5, "still draws anybody: likeness 0.03, where 0 is a stranger and 0.5 is the limit."),
        (-0.08, 0.5, "still draws anybody: likeness 0.00, "),
        (0.25, 0.5, "draws faces a little like the person: likeness 0.25, "),
        (0.46, 0.5, "nearly draws the person: likeness 0.46, where 0 is a stranger and 0.5 is the limit."),
        (0.62, 0.5, "draws the person: likeness 0.62, "),
        (0.25, 0.3, "nearly draws the person: likeness 0.25, where 0 is a stranger and 0.3 is the limit."),
        (None, 0.5, "draws no face, so whom it draws is not known."),
    ],
)
def test_a_sentence_says_whom_the_class_draws_without_the_trigger_and_how_far_that_is_from_the_limit(
    likeness, limit, said
):
    sentence = separation(chosen_with(untrained=likeness, leak_limit=limit), {"trigger": "ohwx", "class_noun": "woman"})
    assert sentence.startswith(f'Without "ohwx", "woman" {said}')


def test_the_sentence_says_also_whom_two_people_show():
    subject = {"trigger": "sks", "class_noun": "man"}
    assert "somebody else" not in separation(chosen_with(untrained=0.2), subject)
    sentence = separation(chosen_with(untrained=0.2, two_people=0.31), subject)
    assert sentence.endswith("is the limit. Beside the person, somebody else has likeness 0.31.")
    assert separation(chosen_with(untrained=0.2, two_people=0.6), subject).endswith("0.60, which is over the limit.")


def chosen_with(leak_limit: float = 0.5, **without_trigger: float | None) -> dict:
    """A choice whose cell shows so much of the person without the trigger."""
    choice = choose(made_scores(lambda *cell: 0.5, epochs=1, weights=[1.0]), **SELECT) | {"leak_limit": leak_limit}
    choice["cells"][0] |= without_trigger
    return choice


def test_one_prompt_and_one_seed_work_and_say_that_there_is_no_interval():
    choice = choose(made_scores(lambda epoch, weight: 0.1 * epoch, prompts=PROMPTS[:1], seeds=[7]), **SELECT)
    assert (choice["epoch"], choice["weight"]) == (4, 1.0)
    assert choice["interval"] == [choice["score"], choice["score"]]
    assert "no interval" in choice["rule"]
    assert advice(choice)[1].startswith("Of 12 settings with one picture each none scores higher, which tells little")


def test_the_second_recogniser_has_no_say():
    scores = made_scores(lambda epoch, weight: 0.1 * epoch + 0.1 * weight, noise=0.2)
    other = choose(scores.assign(judge_identity=np.random.default_rng(0).random(len(scores))), **SELECT)
    choice = choose(scores, **SELECT)
    for cell in (*choice["cells"], choice["base"], *other["cells"], other["base"]):
        del cell["judge_identity"]
    assert other == choice


def test_the_order_of_the_rows_changes_nothing_and_the_seed_is_fixed():
    scores = made_scores(lambda epoch, weight: 0.1 * epoch + 0.1 * weight, noise=0.2)
    shuffled = scores.sample(frac=1, random_state=3)
    assert choose(scores, **SELECT) == choose(shuffled, **SELECT)
    assert choose(scores, **SELECT)["interval"] != choose(scores, **{**SELECT, "seed": 1})["interval"]


def test_a_wider_confidence_tells_fewer_cells_apart():
    scores = made_scores(lambda epoch, weight: 0.5 + 0.02 * epoch, weights=[1.0])
    scores["identity"] += np.random.default_rng(2).normal(0, 0.06, len(scores))
    counts = [len(choose(scores, **{**SELECT, "confidence": c})["indistinguishable"]) for c in (0.6, 0.95, 0.999)]
    assert counts == sorted(counts)
    assert counts[0] < counts[-1]


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (lambda s: ~(s["epoch"].eq(2) & s["weight"].eq(0.8) & s["seed"].eq(3)), "no picture of epoch 2 at weight 0.8"),
        (lambda s: ~(s["epoch"].eq(3) & s["weight"].eq(1.0)), "no picture of epoch 3 at weight 1"),
        (lambda s: s["epoch"] > 0, "base model"),
        (lambda s: s["epoch"] == 0, "no epochs"),
        (lambda s: s["epoch"] > 9, "no picture of the subject"),
    ],
)
def test_missing_pictures_are_an_error_that_names_the_first(keep, message):
    scores = made_scores(lambda *cell: 0.5)
    with pytest.raises(LikenessError, match=message):
        choose(scores[keep(scores)], **SELECT)


@pytest.mark.parametrize("column", ["identity", "prompt_score"])
def test_nan_is_an_error_that_names_the_picture(column):
    scores = made_scores(lambda *cell: 0.5)
    scores.loc[30, column] = np.nan
    with pytest.raises(LikenessError, match=f"{column} of epoch 1 at weight 1, .*seed 3 is not a number"):
        choose(scores, **SELECT)


def test_a_picture_that_is_there_twice_is_an_error():
    scores = made_scores(lambda *cell: 0.5)
    with pytest.raises(LikenessError, match="twice"):
        choose(pd.concat([scores, scores.tail(1)]), **SELECT)


def test_a_gated_picture_scores_zero():
    scores = made_scores(lambda *cell: 0.5, gate=lambda epoch, weight: "copy" if epoch == 2 else "")
    values = picture_scores(scores, 2.0)
    assert (values[scores["epoch"] == 2] == 0).all()
    assert (values[scores["epoch"] == 3] > 0).all()


# --- runs ----------------------------------------------------------------------------------------------------------


def compared(runs: dict[str, pd.DataFrame], clips: dict[str, str] | None = None, **select) -> dict:
    """What `compare` says of runs whose chosen cells were found as usual."""
    tables = {name: scores.assign(score=picture_scores(scores, SELECT["beta"])) for name, scores in runs.items()}
    choices = {name: choose(scores, **{**SELECT, **select.get(name, {})}) for name, scores in runs.items()}
    choices = {name: choice | {"clip": (clips or {}).get(name)} for name, choice in choices.items()}
    return compare(tables, choices, bootstrap=SELECT["bootstrap"], seed=SELECT["seed"])


def test_the_better_run_is_named_also_when_it_is_listed_last():
    found = compared({name: made_scores(lambda *cell, at=at: at, noise=0.05) for name, at in (("a", 0.4), ("b", 0.6))})
    assert (found["run"], found["best"], found["alike"], found["pairs"]) == ("b", "b", ["b"], 8)
    low, high = found["differences"]["a"]
    assert -0.3 < low < high < -0.1 and found["differences"]["b"] == [0, 0]
    assert "better than the other run, on 8 pictures each" in found["sentence"]


def test_of_runs_that_cannot_be_told_apart_the_first_is_taken():
    runs = {name: made_scores(lambda *cell: 0.6) for name in ("a", "b")} | {"c": made_scores(lambda *cell: 0.2)}
    for seed, name in enumerate(("a", "b")):
        wobble = np.random.default_rng(seed).normal(0, 0.05, len(runs[name]))
        runs[name]["identity"] += np.where(runs[name]["epoch"] > 0, wobble, 0)
    found = compared(runs)
    assert (found["run"], found["alike"]) == ("a", ["a", "b"])
    assert "a and b cannot be told apart" in found["sentence"]


def test_runs_are_compared_on_the_pictures_that_all_of_them_drew():
    few, many = made_scores(lambda *cell: 0.6, seeds=(1, 2)), made_scores(lambda *cell: 0.4, seeds=(2, 3, 4))
    assert compared({"few": few, "many": many})["pairs"] == 2  # two prompts from seed 2
    apart = compared({"few": few, "other": made_scores(lambda *cell: 0.4, seeds=(3, 4))})
    assert apart["run"] is None and "share no prompt with the same seed" in apart["sentence"]


def test_scores_of_different_scales_are_not_compared():
    runs = {name: made_scores(lambda *cell: 0.6) for name in ("a", "b")}
    found = compared(runs, b={"beta": 1.0})
    assert found["run"] is None and "weigh identity differently" in found["sentence"]
    found = compared(runs, clips={"b": "a CLIP model"})
    assert found["run"] is None and "follows a prompt differently (select.clip)" in found["sentence"]


def test_a_run_without_evidence_is_no_rival():
    nothing = made_scores(lambda *cell: 0.9, gate=lambda *cell: "no_face")
    found = compared({"nothing": nothing, "something": made_scores(lambda *cell: 0.3)})
    assert (found["run"], found["differences"]) == ("something", {"something": [0, 0]})
    assert found["sentence"] == "It is the only run that counts. Left out: 1 more run without evidence."
    assert compared({"nothing": nothing})["run"] is None
    leaking = made_scores(lambda *cell: 0.9, gate=lambda *cell: "leak")
    found = compared({"leaking": leaking, "nothing": nothing, "something": made_scores(lambda *cell: 0.3)})
    assert found["run"] == "something"
    assert "1 more run with leaks at every setting and 1 more run without evidence." in found["sentence"]
    assert compared({"leaking": leaking})["sentence"] == "No run counts: 1 run with leaks at every setting."
