"""choice.json: the chosen epoch and weight, and the sentences about them for the user."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from likeness.core.manifests import read_json

# Between the standard deviations of the mean identity of the untrained pictures in a cell, 0.05 and 0.12. For single
# photos of strangers they are 0.10 (otto) and 0.24 (ava), measured on the 84 photos in resources/calibration and
# strangers, on the scale of each person's photos. The mean of four pictures (two prompts, two seeds) halves them.
NOISE = 0.1


def read_choice(path: Path) -> dict[str, Any]:
    return read_json(path)


def chosen_cell(choice: Mapping[str, Any]) -> dict[str, Any]:
    """The cell of choice.json that was chosen."""
    return next(c for c in choice["cells"] if (c["epoch"], c["weight"]) == (choice["epoch"], choice["weight"]))


def advice(choice: Mapping[str, Any]) -> tuple[str, str]:
    """Two sentences for the user: the setting to use, and how certain the choice is."""
    setting = f"epoch {choice['epoch']} at weight {choice['weight']:g}"
    if choice["by_hand"]:
        return f"Use {setting}, chosen by hand", _instead_of_measured(choice)
    if choice["evidence"] == "none":
        return f"A guess: {setting}", f"No evidence: {choice['rule'][0].lower()}{choice['rule'][1:]}."
    if choice["evidence"] == "leaking":
        return f"Every setting leaks. The least bad is {setting}", (
            "No epoch at any weight shows the person without drawing them also where the prompt does not name them; "
            "this is the best of those that do. Train fewer steps, at a lower rate or with regularisation pictures, "
            "or sample lower weights."
        )
    use = f"Use {setting}"
    alike = choice["indistinguishable"]
    pictures = f"{choice['pairs']} pictures each"
    if len(choice["cells"]) == 1:
        certainty = "It is the only setting there is."
    elif choice["pairs"] == 1:
        certainty = f"Of {len(choice['cells'])} settings with one picture each none scores higher, which tells little."
    elif len(alike) == 1:
        certainty = f"It is better than each of the other {len(choice['cells']) - 1} settings, on {pictures}."
    elif len(epochs := sorted({epoch for epoch, _ in alike})) == 1:
        weights = listed_words(f"{weight:g}" for _, weight in alike)
        certainty = f"Weights {weights} of epoch {epochs[0]} cannot be told apart, on {pictures}."
    else:
        # The chosen cell may score highest without being the only candidate, and it need not be one of `alike`: the
        # epoch is chosen among all cells at the weight.
        scores_highest = chosen_cell(choice)["score"] == max(cell["score"] for cell in choice["cells"])
        if scores_highest:
            why = "Of these, this one scores highest and has the weight nearest to 1"
        else:
            why = "Of these the weight nearest to 1 is taken, then the latest epoch that scores nearly best at it"
        certainty = f"Settings of epochs {_span(epochs)} cannot be told apart, on {pictures}. {why}."
    if not choice["better_than_base"]:
        certainty += (
            " It cannot be told apart from the base model without the LoRA either: sample more prompts and seeds."
        )
    return use, certainty


def _instead_of_measured(choice: Mapping[str, Any]) -> str:
    """What the measure would have taken in the place of a choice by hand."""
    measured = choice["measured_choice"]
    if (measured["epoch"], measured["weight"]) == (choice["epoch"], choice["weight"]):
        return "The measure takes the same."
    return (
        f"The measure would have taken epoch {measured['epoch']} at weight {measured['weight']:g}, whose score is "
        f"{measured['score']:.2f}; this one's is {choice['score']:.2f}."
    )


def separation(choice: Mapping[str, Any], subject: Mapping[str, Any]) -> str:
    """Sentences for the user: who is drawn in the chosen cell by the class noun without the trigger, and how far this
    is from the limit. A likeness below NOISE cannot be distinguished from a stranger's. If it is less than NOISE below
    the limit, other seeds may exceed the limit."""
    cell, limit = chosen_cell(choice), choice["leak_limit"]
    likeness, other = cell["untrained"], cell["two_people"]
    if likeness is None:
        verdict = "draws no face, so whom it draws is not known"
    else:
        if likeness > limit:
            whom = "draws the person"
        elif likeness > limit - NOISE:
            whom = "nearly draws the person"
        elif likeness < NOISE:
            whom = "still draws anybody"
        else:
            whom = "draws faces a little like the person"
        verdict = f"{whom}: likeness {max(likeness, 0):.2f}, where 0 is a stranger and {limit:g} is the limit"
    sentence = f'Without "{subject["trigger"]}", "{subject["class_noun"]}" {verdict}.'
    if other is not None:
        over = ", which is over the limit" if other > limit else ""
        sentence += f" Beside the person, somebody else has likeness {max(other, 0):.2f}{over}."
    return sentence


def _span(numbers: Sequence[int]) -> str:
    """[2, 3, 4] -> "2 to 4"; [2, 4] -> "2 and 4"."""
    if len(numbers) > 2 and numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"{numbers[0]} to {numbers[-1]}"
    return listed_words(str(n) for n in numbers)


def listed_words(words: Iterable[str]) -> str:
    """["a", "b", "c"] -> "a, b and c"."""
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last
