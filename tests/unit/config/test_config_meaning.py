"""What config.yaml says is taken as it was meant: defaults, overrides of a run, numbers, names and paths."""

import copy
import shutil

import pytest
import yaml

from config_mistakes import mistaken
from likeness.config.checks import checked_config
from likeness.core.errors import LikenessError
from project import CONFIG


def test_a_trigger_in_another_unicode_form_calls_the_person(roots):
    config = mistaken(["subjects", "ava", "trigger"], "zoe\u0308")
    assert checked_config(config, roots)["subjects"]["ava"]["trigger"] == "zo\u00eb", "as captions are read"
    config["sample"]["untrained_prompts"] = ["photo of Zoe\u0308"]
    with pytest.raises(LikenessError, match="untrained_prompts: 'photo of Zo\u00eb' has .*, which calls ava"):
        checked_config(config, roots)


def test_generate_is_a_folder_only_by_its_path(roots):
    (roots[0] / "generate").mkdir()
    drawn, folder = (mistaken(["subjects", "ava", "regularisation"], name) for name in ("generate", "./generate"))
    checked_config(drawn, roots)  # a folder without photos was never meant
    shutil.copy(roots[0] / "photos/a.jpg", roots[0] / "generate")
    with pytest.raises(
        LikenessError, match=r"ava\.regularisation: generate has .* write \./generate to use its photos"
    ):
        checked_config(drawn, roots)
    assert checked_config(folder, roots)["subjects"]["ava"]["regularisation"] == "./generate"


def test_a_run_overrides_what_it_names_and_nothing_else(roots):
    config = copy.deepcopy(CONFIG) | {"runs": {"plain": {}, "wide": {"train": {"rank": 32}}}}
    runs = checked_config(config, roots)["runs"]
    assert runs["wide"]["train"] == runs["plain"]["train"] | {"rank": 32}
    assert runs["wide"]["sample"] == runs["plain"]["sample"]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ({}, (2000, 10, None)),
        ({"max_train_steps": 500}, (500, 10, None)),
        ({"epochs": 4}, (2000, 4, None)),
        ({"repeats": 20}, (None, 10, 20)),
        ({"repeats": 20, "max_train_steps": 500}, (500, None, 20)),
        ({"repeats": 20, "epochs": 3}, (None, 3, 20)),
    ],
)
def test_two_of_steps_epochs_and_repeats_are_always_there(roots, written, meant):
    config = copy.deepcopy(CONFIG)
    config["train"] = written | {"rank": 8, "alpha": 8}
    train = checked_config(config, roots)["runs"]["portrait"]["train"]
    assert (train["max_train_steps"], train["epochs"], train["repeats"]) == meant


def test_numbers_may_be_written_as_kohyas_users_write_them(roots):
    config = mistaken(["train", "learning_rate"], yaml.safe_load("1e-4"))
    config["train"] |= yaml.safe_load("optimizer_args: {eps: 1e-8, betas: [9e-1, 0.99]}")
    train = checked_config(config, roots)["train"]
    assert train["learning_rate"] == 0.0001
    assert train["optimizer_args"] == {"eps": 1e-8, "betas": [0.9, 0.99]}


def test_an_empty_section_has_its_defaults(roots):
    empty = CONFIG | {"train": None, "select": None, "runs": {"portrait": None, "other": {"train": None}}}
    full = CONFIG | {"train": {}, "select": {}, "runs": {"portrait": {}, "other": {}}}
    assert checked_config(copy.deepcopy(empty), roots) == checked_config(copy.deepcopy(full), roots)


def test_an_empty_key_has_its_default_and_overrides_nothing(roots):
    """Unless it is one that may be empty, where empty is a value."""
    config = CONFIG | {"train": {"rank": 64, "alpha": None, "epochs": 5, "repeats": 2}}
    config["runs"] = {"portrait": {"train": {"rank": None, "epochs": None}}}
    train = checked_config(config, roots)["runs"]["portrait"]["train"]
    assert (train["rank"], train["alpha"], train["epochs"], train["repeats"]) == (64, 64, 10, 2)


def test_a_prompt_of_several_lines_is_one(roots):
    config = mistaken(["sample", "prompts"], ["photo of\n  {subject}\n"])
    assert checked_config(config, roots)["sample"]["prompts"] == ["photo of {subject}"]
