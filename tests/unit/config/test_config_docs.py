"""The shipped configuration and the examples are right, and docs/config.md has every key."""

import copy
import re

import pytest
import yaml
from snakemake.utils import update_config

from likeness.config.checks import checked_config
from likeness.config.sections import json_schema
from project import ROOT


def test_the_shipped_configuration_is_right():
    config = checked_config(yaml.safe_load((ROOT / "config.yaml").read_text()), [ROOT])
    assert config["subjects"]["ava"]["consent"] == "synthetic"


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*_people.yaml")), ids=lambda path: path.stem)
def test_the_examples_are_right_over_the_shipped_configuration(example):
    """As --configfile takes them: subjects and runs are theirs alone, what they do not say is the shipped one's."""
    shipped, own = (yaml.safe_load(path.read_text()) for path in (ROOT / "config.yaml", example))
    config = copy.deepcopy(shipped)
    update_config(config, own)
    checked = checked_config(config | {key: own[key] for key in ("subjects", "runs") if key in own}, [ROOT])
    assert set(checked["subjects"]) == set(own.get("subjects", shipped["subjects"]))


def test_every_key_is_in_the_documentation():
    documented = (ROOT / "docs/config.md").read_text()
    for name, section in json_schema()["$defs"].items():
        for key in section["properties"]:
            assert f"`{key}`" in documented, f"{name}.{key}"


def test_every_key_is_one_whole_row_of_a_table():
    rows = [line for line in (ROOT / "docs/config.md").read_text().splitlines() if line.startswith("| `")]
    keys = [key for section in json_schema()["$defs"].values() for key in section["properties"]]
    assert len(rows) == len(keys) + len(json_schema()["properties"])
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {5}, "four cells"
    assert all(row.endswith(" |") for row in rows), "a line's end within a cell ends the table"
