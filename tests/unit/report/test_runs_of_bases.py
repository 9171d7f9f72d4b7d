"""The page that compares runs on several base models: what they change, and the pictures of each base model."""

from pathlib import Path

import pytest

from likeness.choosing.scores import read_scores
from likeness.report.runs import changed_settings, runs_html
from made_run import SELECT, made_choice, made_scores, write_run

BASE = {"base_model": "sd15", "base_revision": None, "vae": None, "prediction_type": None, "clip_skip": 1}


def settings(drawing: dict | None = None, **trained) -> dict:
    """The settings of a run: those of its base model, and in `sample` those of the one that draws."""
    base = BASE | trained
    return base | {"train": {"rank": 8}, "sample": {"steps": 25} | base | (drawing or {}), "select": SELECT}


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        ([settings(), settings(base_model="xl")], [["base_model sd15"], ["base_model xl"]]),
        (
            [settings(), settings({"base_model": "finetune", "clip_skip": 2})],
            [["sample.base_model sd15", "sample.clip_skip 1"], ["sample.base_model finetune", "sample.clip_skip 2"]],
        ),
        (
            [settings({"vae": "mse"}), settings({"vae": "mse"}, base_model="xl")],
            [["base_model sd15"], ["base_model xl"]],
        ),
    ],
)
def test_a_base_model_that_draws_is_said_where_it_is_not_the_trained_one(runs, expected):
    found = changed_settings(dict(zip("ab", runs, strict=True)))
    assert list(found.values()) == expected


def page(folder: Path, ava: Path, floors: dict[str, float], bases: dict[str, str]) -> str:
    """The page of runs with these floors, drawn with these base models; each base model draws another photo."""
    tables, choices = {}, {}
    for number, (name, floor) in enumerate(floors.items()):
        scores = made_scores(lambda *cell: 0.5, epochs=1, seeds=(1,)).assign(floor=floor)
        write_run(folder / name, scores, 64, [ava / f"{number:02d}.jpg"])
        tables[name] = read_scores(folder / name / "scores.tsv").assign(score=0.5)
        choices[name] = made_choice(scores) | {"drawn_with": {"model": bases[name], "digest": bases[name]}}
    return runs_html(tables, choices, {name: settings() for name in floors}, subject="ava")


def test_each_base_model_has_a_column_of_its_own_pictures(tmp_path, ava):
    floors = {"a": 0.1, "b": 0.2, "c": 0.1}
    html = page(
        tmp_path, ava, floors, {"a": "models/sd15.safetensors", "b": "o/finetune", "c": "models/sd15.safetensors"}
    )
    for heading in ("sd15.safetensors, which draws a and c", "finetune, which draws b"):
        assert html.count(f'<th scope="col">{heading}</th>') == 2, "once for each prompt"
    assert 'id="scales"' in html
    assert html.count('<div class="tile') == 2 * (2 + 3)


def test_one_base_model_has_the_column_of_before(tmp_path, ava):
    html = page(tmp_path, ava, {"a": 0.1, "b": 0.1}, dict.fromkeys("ab", "sd15"))
    assert html.count('<th scope="col">base model</th>') == 2 and 'id="scales"' not in html
    assert html.count('<div class="tile') == 2 * (1 + 2)
