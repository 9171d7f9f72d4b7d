"""The examples to copy are right: they pass the checks, and name no key that would be without effect."""

import shutil

import pytest
import yaml

from likeness.config.advice import advice
from likeness.config.checks import checked_config
from likeness.config.yaml_file import check_config_file
from project import ROOT

EXAMPLES = {"sd15": 512, "sdxl": 1024}


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_copied_example_needs_no_more_than_photos(roots, name):
    check_config_file(ROOT / f"examples/{name}.yaml")
    raw = yaml.safe_load((ROOT / f"examples/{name}.yaml").read_text())
    shutil.copytree(roots[0] / "photos", roots[0] / "photos/mia")
    config = checked_config(raw, roots)
    sample = config["runs"]["portrait"]["sample"]
    assert (config["resolution"], sample["steps"], sample["guidance_scale"]) == (EXAMPLES[name], 25, 7.0)
    assert config["runs"]["portrait"]["train"]["learning_rate"] == 1e-4
    assert set(config["portraits"]["scenes"]) == {"studio", "street", "full_body", "painting"} and not config["places"]
    assert advice(raw, config, roots, cores=None) == []


def test_the_readme_names_every_example():
    text = (ROOT / "README.md").read_text()
    assert all(f"examples/{name}.yaml" in text for name in EXAMPLES)
