"""The curves of a training show what its metrics have: losses, rates, and how far the class has moved."""

import numpy as np
import pytest

from likeness.core.manifests import read_table, write_table
from likeness.report.curves import curves
from made_run import write_metrics


def points(polyline: str) -> np.ndarray:
    """(n, 2): x and y."""
    return np.array([tuple(map(float, point.split(","))) for point in polyline.split()])


def test_a_long_course_is_thinned_and_the_chosen_epoch_marked(tmp_path):
    found = curves(write_metrics(tmp_path, 400), 200)
    loss, rates = found["loss"], found["rates"]
    for line in (loss["raw"], loss["smoothed"], rates["lines"][0]["points"]):
        x = points(line)[:, 0]
        assert len(x) == 200 and list(x) == sorted(x)
        assert x[99] < found["chosen"] < x[101]
    assert len(loss["validation"]) == 200


def test_smoothed_loss_shows_the_fall_that_noise_hides(tmp_path):
    loss = curves(write_metrics(tmp_path, 20), 10)["loss"]
    raw, smoothed = points(loss["raw"])[:, 1], points(loss["smoothed"])[:, 1]
    assert np.abs(np.diff(smoothed)).mean() < 0.1 * np.abs(np.diff(raw)).mean()
    assert smoothed[-1] - smoothed[0] > 20, "further down on the page: a smaller loss"


def test_validation_and_learning_rates_are_drawn_where_the_metrics_have_them(tmp_path):
    """By one axis each: at the middle of the run, where the validation loss is lowest, its dot is the lowest."""
    both = curves(write_metrics(tmp_path, 8, text_encoder=True), 4)
    heights = [dot["y"] for dot in both["loss"]["validation"]]
    assert len(heights) == 8 and heights.index(max(heights)) == 3
    assert both["loss"]["validation"][3]["x"] == both["chosen"]
    assert "epoch 4: validation loss 0.1300" in both["loss"]["validation"][3]["title"]
    unet, text = (points(line["points"]) for line in both["rates"]["lines"])
    bottom, top = (both["rates"]["y_ticks"][i] for i in (0, -1))
    assert [bottom["label"], top["label"], both["rates"]["unit"]] == ["0", "1", "1e-4"]
    assert unet[0, 1] == pytest.approx(top["at"], abs=0.5) and unet[-1, 1] == pytest.approx(bottom["at"], abs=0.5)
    assert text[0, 1] == pytest.approx((top["at"] + bottom["at"]) / 2, abs=0.5)

    rows = read_table(write_metrics(tmp_path, 8))
    write_table(tmp_path / "none.tsv", rows.assign(validation_loss="").to_dict("records"), list(rows))
    plain = curves(tmp_path / "none.tsv", 4)
    assert plain["loss"]["validation"] == []
    assert [line["name"] for line in plain["rates"]["lines"]] == ["learning rate, U-Net"]


def test_how_far_the_class_has_moved_is_drawn_where_it_was_preserved(tmp_path):
    metrics = write_metrics(tmp_path, 8)
    drawing = curves(metrics, 4)["preservation"]
    (line,) = drawing["lines"]
    heights, (bottom, top) = points(line["points"])[:, 1], (drawing["y_ticks"][i] for i in (0, -1))
    assert list(heights) == sorted(heights, reverse=True), (
        "it moves ever further, and steps without a number leave no gap"
    )
    assert [bottom["label"], top["label"], drawing["unit"]] == ["0", "4", "1e-4"]
    assert heights[-1] == pytest.approx(top["at"], abs=0.06 * (bottom["at"] - top["at"]))

    rows = read_table(metrics)
    write_table(tmp_path / "off.tsv", rows.assign(preservation="").to_dict("records"), list(rows))
    assert curves(tmp_path / "off.tsv", 4)["preservation"]["lines"] == []


def test_a_course_without_a_step_draws_nothing(tmp_path):
    found = curves(write_metrics(tmp_path, 0), 1)
    assert found["loss"]["raw"] == "" and found["loss"]["validation"] == [] and found["chosen"] is None
