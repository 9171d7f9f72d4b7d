"""A mistake in config.yaml is one readable line with the key's path, before any job starts."""

import copy
import re
import time

import pytest

from config_mistakes import MISTAKES, mistaken
from likeness.config.checks import RESERVED_RUNS, RESERVED_SUBJECTS, checked_config
from likeness.config.mistakes import OTHER_NAMES
from likeness.config.sections import json_schema
from likeness.core.errors import LikenessError
from project import CONFIG, ROOT


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_with_its_path(roots, name):
    path, value, expected = MISTAKES[name]
    with pytest.raises(LikenessError) as error:
        checked_config(mistaken(path, value), roots)
    lines = str(error.value).splitlines()[1:]
    assert len(lines) == 1 and lines[0].strip().startswith(expected) and len(lines[0]) < 600, lines


@pytest.mark.parametrize(
    ("path", "what"),
    [
        *[(path, "~ and variables are not replaced") for path in ("~/ava", "$HOME/ava", "${HOME}/ava", "%HOME%/ava")],
        *[(path, "a path of Windows") for path in (r"C:\Users\me", "d:/ava", r"\\nas\ava")],
    ],
)
def test_a_path_of_a_kind_that_is_never_there_says_why(roots, path, what):
    settings = (["base_model"], ["vae"], ["caption", "identity_words"], ["upscale", "weights"], ["select", "clip"])
    subject = (["subjects", "ava", key] for key in ("photos", "regularisation"))
    for keys in (*settings, ["train", "network_weights"], *subject):
        config = copy.deepcopy(CONFIG)
        section = config
        for key in keys[:-1]:
            section = section.setdefault(key, {})
        section[keys[-1]] = path
        with pytest.raises(LikenessError, match=what) as error:
            checked_config(config, roots)
        assert ".".join(keys) in str(error.value)


def test_what_other_trainers_call_a_key_is_one_of_ours():
    schema = json_schema()
    ours = {f"{name.lower()}.{key}" for name, section in schema["$defs"].items() for key in section["properties"]}
    ours = {path.replace("subject.", "subjects.{name}.") for path in ours} | set(schema["properties"])
    assert set(OTHER_NAMES.values()) <= ours


def test_hundreds_of_subjects_and_runs_are_checked_in_a_moment(roots):
    """What they share is checked once."""
    config = copy.deepcopy(CONFIG)
    config["subjects"] = {f"s{number}": CONFIG["subjects"]["ava"] for number in range(300)}
    config["runs"] = {f"r{number}": {"train": {"seed": number}} for number in range(600)}
    began = time.process_time()
    assert len(checked_config(config, roots, within_job=True)["runs"]) == 600
    config["sample"] = CONFIG["sample"] | {"untrained_prompts": ["ohwx"]}
    with pytest.raises(LikenessError) as error:
        checked_config(config, roots, within_job=True)
    assert len(str(error.value).splitlines()) == 52
    assert time.process_time() - began < 2


def test_every_mistake_is_named_at_once(roots):
    config = mistaken(["train", "rank"], 0)
    config["subjects"]["ava"].pop("consent")
    config["sample"]["steps"] = -1
    with pytest.raises(LikenessError) as error:
        checked_config(config, roots)
    assert len(str(error.value).splitlines()) == 4


def test_a_thousand_mistakes_fill_one_screen(roots):
    config = mistaken(["sample", "seeds"], ["x"] * 1000)
    with pytest.raises(LikenessError) as error:
        checked_config(config, roots)
    lines = str(error.value).splitlines()
    assert len(lines) == 52 and lines[-1] == "  and 950 more"


def test_within_a_job_nobodys_photos_are_listed(roots):
    """The Snakemake that started the job has listed all; each of its jobs would list those of every subject."""
    config = mistaken(["subjects", "ava", "reference"], ["gone.jpg"])
    with pytest.raises(LikenessError, match="no photo 'gone.jpg'"):
        checked_config(config, roots)
    job = checked_config(config, roots, within_job=True)
    assert job["subjects"]["ava"]["photos"] == str(roots[0] / "photos")


def test_no_name_is_free_that_a_rule_writes_to():
    rules = "".join(path.read_text() for path in [ROOT / "Snakefile", *(ROOT / "rules").glob("*.smk")])
    of_results = set(re.findall(r"results/([a-z_]+)/", rules))
    assert of_results == RESERVED_SUBJECTS
    of_subjects = set(re.findall(r'directory\("results/{subject}/([a-z_]+)"\)', rules))
    assert of_subjects == RESERVED_RUNS
