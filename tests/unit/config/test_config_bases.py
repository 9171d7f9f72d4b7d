"""Which base model each run trains on, which one draws it, and what of the top level they have in common with it."""

import json
import re
from pathlib import Path

import pytest

from likeness.config.checks import checked_config
from likeness.core.errors import LikenessError
from likeness.core.section import BASE_KEYS
from project import CONFIG

TOP = {"base_model": "somebody/sd15", "base_revision": "v2", "vae": "vae", "prediction_type": "epsilon", "clip_skip": 2}
ALONE = {"base_revision": None, "vae": None, "prediction_type": None, "clip_skip": 2}  # of a model that is named alone


@pytest.fixture
def roots(roots):
    (roots[0] / "vae").mkdir()
    return roots


def checked(roots: list[Path], run: dict, sample: dict | None = None) -> dict:
    """The configuration of one run, with these keys in `sample` of the top level."""
    config = CONFIG | TOP | {"runs": {"portrait": run}}
    return checked_config(config | {"sample": CONFIG["sample"] | (sample or {})}, roots)


def settings(section: dict) -> dict:
    return {key: section[key] for key in BASE_KEYS}


@pytest.mark.parametrize(
    ("run", "sample", "trained", "drawing"),
    [
        ({}, {}, TOP, TOP),
        ({"vae": "small_base"}, {}, TOP | {"vae": "small_base"}, TOP | {"vae": "small_base"}),
        ({"base_model": "o/b"}, {}, {"base_model": "o/b"} | ALONE, {"base_model": "o/b"} | ALONE),
        ({"clip_skip": 1}, {"clip_skip": 3}, TOP | {"clip_skip": 1}, TOP | {"clip_skip": 3}),
        ({}, {"vae": "small_base"}, TOP, TOP | {"vae": "small_base"}),
        ({}, {"base_model": "o/b"}, TOP, {"base_model": "o/b"} | ALONE),
        ({"base_model": "o/a"}, {"base_model": "o/b"}, {"base_model": "o/a"} | ALONE, {"base_model": "o/b"} | ALONE),
        ({"sample": {"base_model": "o/b"}}, {"base_model": "o/c", "vae": "vae"}, TOP, {"base_model": "o/b"} | ALONE),
        ({"sample": {"base_model": None}}, {"base_model": "o/c", "vae": "small_base"}, TOP, TOP),
        (
            {"sample": {"steps": 3}},
            {"base_model": "o/c", "vae": "vae"},
            TOP,
            {"base_model": "o/c"} | ALONE | {"vae": "vae"},
        ),
    ],
)
def test_a_model_that_is_named_takes_no_revision_vae_or_prediction_from_another(roots, run, sample, trained, drawing):
    config = checked(roots, run, sample)
    (found,) = config["runs"].values()
    assert settings(found) == trained and settings(found["sample"]) == drawing
    for section, name in ((trained, found["base"]), (drawing, found["drawing_base"])):
        assert {key: config["bases"][name][key] for key in section if key != "clip_skip"} == {
            key: value for key, value in section.items() if key != "clip_skip"
        }


def test_a_base_model_has_one_name_however_it_is_named(roots):
    same = TOP | {"sample": {"base_model": "o/b"}}
    config = CONFIG | TOP | {"runs": {"a": {}, "b": same, "c": {"base_model": "o/b"}, "d": {"clip_skip": 1}}}
    runs = checked_config(config, roots)["runs"]
    assert [run["base"] for run in runs.values()] == ["", "", runs["c"]["base"], ""]
    assert runs["b"]["drawing_base"] == runs["c"]["base"] and re.fullmatch("-b-[0-9a-f]{8}", runs["c"]["base"])
    assert [run["latents"] for run in runs.values()] == ["", "", runs["c"]["base"], "-clip_skip1"]


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("somebody/Realistic.Vision-v6", r"-Realistic_Vision_v6-[0-9a-f]{8}"),
        ("models/Ünï  cødé.safetensors", r"-_n_c_d_-[0-9a-f]{8}"),
        ("models/" + "x" * 200 + ".safetensors", r"-x{40}-[0-9a-f]{8}"),
    ],
)
def test_the_name_of_a_file_is_short_and_plain(roots, model, expected):
    if model.startswith("models/"):
        (roots[0] / "models").mkdir()
        (roots[0] / model).touch()
    (run,) = checked(roots, {"base_model": model})["runs"].values()
    assert re.fullmatch(expected, run["base"])


def of_family(folder: Path, **unet: str) -> None:
    """The configurations of a diffusers folder, which tell its family."""
    for part, config in (("unet", unet), ("text_encoder", {})):
        (folder / part).mkdir(parents=True)
        (folder / part / "config.json").write_text(json.dumps(config))


def test_models_that_are_here_need_no_job_to_tell_their_families(roots):
    of_family(roots[0] / "sd15")
    of_family(roots[0] / "finetune")
    of_family(roots[0] / "xl", addition_embed_type="text_time")
    top = {"base_model": "sd15", "vae": None, "base_revision": None}
    runs = {"a": {"sample": {"base_model": "finetune"}}, "b": {"base_model": "xl"}}
    config = checked_config(CONFIG | TOP | top | {"runs": runs}, roots)
    assert [base["same_family"] for base in config["bases"].values()] == [[], [], []], "b is drawn by its own"
    runs["b"] = {"base_model": "xl", "sample": {"base_model": "sd15"}}
    with pytest.raises(LikenessError) as error:
        checked_config(CONFIG | TOP | top | {"runs": runs}, roots)
    assert str(error.value).splitlines()[1:] == [
        "  runs.b.sample.base_model: 'sd15' is a Stable Diffusion 1.x, but the LoRA is trained on 'xl', a Stable "
        "Diffusion XL, and works with no other family; name a model of that one"
    ]


def test_of_a_model_of_the_hub_one_job_asks_for_the_others_family(roots):
    """Only one of the two: if each job waited for the other, neither would start."""
    runs = {"a": {"sample": {"base_model": "o/b"}}, "b": {"base_model": "o/b", "sample": TOP | {"clip_skip": 1}}}
    bases = checked_config(CONFIG | TOP | {"runs": runs}, roots)["bases"]
    assert [base["same_family"] for base in bases.values()] == [[], [""]]
    vae_alone = {"a": {"sample": {"vae": "small_base"}}}
    bases = checked_config(CONFIG | TOP | {"runs": vae_alone}, roots)["bases"]
    assert [base["same_family"] for base in bases.values()] == [[], []], "it is the same model"
