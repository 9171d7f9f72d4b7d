"""The table of make bench-likeness says what the trainings' pictures were measured as."""

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import yaml
from PIL import Image
from transformers import CLIPTokenizer

import bench_likeness
from likeness.choosing.scoring import COLUMNS
from likeness.core.manifests import write_table
from likeness.training.settings import Train
from project import ROOT


def write_training(folder, person: str, identity: float, leak: float, tones: tuple[int, int]) -> None:
    """The scores of one training: two pictures of the person, two of the class of which one shows no face; the base
    model's two pictures differ by 100 levels."""
    results = folder / f"results/{person}/none_0"
    rows = []
    for epoch, levels in ((0, (50, 150)), (1, tones)):
        for seed, level in enumerate(levels):
            image = results / f"{epoch}_{seed}.png"
            image.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((8, 8, 3), level, np.uint8)).save(image)
            shown = {"epoch": epoch, "weight": float(epoch), "seed": seed, "gate": "", "floor_from": "strangers"}
            rows.append(
                shown
                | {"prompt": "photo of ohwx woman", "kind": "near", "image": image.name, "faces": 1, "face_found": 1}
                | {"identity": identity, "judge_identity": identity + 0.1, "prompt_score": 0.9}
            )
            face = {"faces": 1 - seed, "face_found": 1 - seed, "prompt_score": 1}
            rows.append(
                shown
                | {"prompt": "photo of a woman", "kind": "untrained", "image": image.name, **face}
                | {"identity": leak * (1 - seed), "judge_identity": leak * (1 - seed)}
            )
    write_table(results / "scores.tsv", rows, COLUMNS)


def test_a_training_is_the_mean_of_its_pictures_and_a_method_that_of_its_trainings(tmp_path):
    write_training(tmp_path, "ava", identity=0.6, leak=0.1, tones=(100, 150))
    write_training(tmp_path, "otto", identity=0.4, leak=0.3, tones=(100, 200))
    table = pd.DataFrame([bench_likeness.measured(tmp_path, "none", person, 0) for person in ("ava", "otto")])
    assert table["likeness, SFace"].tolist() == [0.6, 0.4]
    assert table["likeness, dlib"].tolist() == pytest.approx([0.7, 0.5])
    assert table["without the trigger, SFace"].tolist() == [0.1, 0.3], "a picture without a face tells nothing"
    assert table["diversity"].tolist() == [0.5, 1.0], "of the base model's"
    text = bench_likeness.markdown({"none": table}, {"none": 1.0})
    assert "| none | 2 | 0.50 ± 0.10 | 0.60 ± 0.10 |" in text and text.rstrip().endswith("| 1.00 |")


def test_trainings_of_earlier_comparisons_are_kept(tmp_path):
    write_training(tmp_path, "otto", identity=0.4, leak=0.3, tones=(100, 200))
    rows, file = pd.DataFrame([bench_likeness.measured(tmp_path, "none", "otto", 0)]), tmp_path / "rows.tsv"
    assert bench_likeness.read_rows(file).empty
    bench_likeness.write_rows(file, rows)
    pd.testing.assert_frame_equal(bench_likeness.read_rows(file), rows)


def test_of_a_base_model_with_a_trained_trigger_only_the_triggers_embedding_is_another(
    tmp_path, finished_project, monkeypatch
):
    monkeypatch.setattr(bench_likeness, "TRIGGER_STEPS", 3)
    (tmp_path / "untrained").mkdir()
    (tmp_path / "untrained/results").symlink_to(finished_project.folder / "results")
    monkeypatch.setattr(bench_likeness, "make", lambda *made: None)  # the photos' latents are there
    trained = bench_likeness.base_with_trained_trigger(tmp_path, "ava", "ohwx", 0, 1)
    before, after = (
        safetensors.torch.load_file(folder / "text_encoder/model.safetensors")
        for folder in (finished_project.folder / "small_base", trained)
    )
    changed = {name for name, tensor in before.items() if not tensor.equal(after[name])}
    assert {name.rpartition("embeddings.")[2] for name in changed} == {"token_embedding.weight"}
    moved = (before[min(changed)] != after[min(changed)]).any(1).nonzero().flatten().tolist()
    tokenizer = CLIPTokenizer.from_pretrained(trained / "tokenizer")
    assert sorted(tokenizer.convert_ids_to_tokens(moved)) == sorted(set(tokenizer.tokenize("ohwx")))


def test_the_interval_is_that_of_the_mean_over_trainings():
    values = pd.Series(np.random.default_rng(1).normal(0.5, 0.1, 400))
    assert bench_likeness.half_interval(values) == pytest.approx(1.96 * 0.1 / 20, rel=0.15)
    assert bench_likeness.half_interval(pd.Series([0.5])) == 0


def test_every_method_is_a_training_that_the_configuration_knows_and_has_a_name_for_its_files():
    names = [bench_likeness.run_name(method, 1) for method in bench_likeness.METHODS]
    apart = {*bench_likeness.WITH_CLASS_PICTURES, *bench_likeness.WITH_TRAINED_TRIGGER}
    assert apart <= set(bench_likeness.METHODS)
    assert len(set(names)) == len(names) and all(name.replace("_", "").isalnum() for name in names)
    for changes in bench_likeness.METHODS.values():
        Train(**(bench_likeness.RECIPE | changes))
    people = yaml.safe_load((ROOT / "examples/four_people.yaml").read_text())["subjects"]
    assert tuple(people) == bench_likeness.PEOPLE
    assert all((ROOT / person["photos"]).is_dir() for person in people.values())
