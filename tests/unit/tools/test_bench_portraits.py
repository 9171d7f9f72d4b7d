"""The table of make bench-portraits says what was measured, and its intervals know that scenes share people."""

import numpy as np
import pandas as pd
import pytest

import bench_portraits
from bench_portraits import FACE, HIRES_AND_FACE, HIRES_STAGE, PLAIN, PORTRAIT


def table(by_stage: dict[str, list[tuple[str, float]]]) -> pd.DataFrame:
    """Pictures as (person of the scene, identity). The judge sees half of the likeness that SFace sees."""
    return pd.DataFrame(
        [
            {"stage": stage, "source": who, "seed": seed, "found": value != 0}
            | {"identity": value, "judge_identity": value / 2}
            for stage, pictures in by_stage.items()
            for seed, (who, value) in enumerate(pictures)
        ]
    )


def measured(weak: float, strong: float) -> pd.DataFrame:
    low, high = FACE[0.4], FACE[0.75]
    return table(
        {
            PLAIN: [("a", 0.0), ("b", 0.2)],
            HIRES_STAGE: [("a", 0.2), ("b", 0.4)],
            low: [("a", weak), ("b", weak)],
            high: [("a", strong), ("b", strong)],
            FACE[0.6]: [("a", 0.1), ("b", 0.1)],
            FACE[1.0]: [("a", 0.1), ("b", 0.1)],
            HIRES_AND_FACE: [("a", 0.3), ("b", 0.3)],
            PORTRAIT: [(PORTRAIT, 0.8), (PORTRAIT, 0.8)],
        }
    )


def test_the_last_line_is_the_judges_share_of_a_portrait_at_the_strength_that_sface_finds_better():
    assert bench_portraits.best_strength(measured(0.4, 0.6)) == (0.75, pytest.approx(0.75))
    assert bench_portraits.best_strength(measured(0.4, 0.2)) == (0.4, pytest.approx(0.5))
    judged_otherwise = measured(0.4, 0.6)
    judged_otherwise.loc[judged_otherwise["stage"] == FACE[0.75], "judge_identity"] = 0.1
    assert bench_portraits.best_strength(judged_otherwise) == (0.75, pytest.approx(0.25))


def test_the_table_has_each_stage_with_both_recognisers_and_the_faces_that_were_found():
    lines = bench_portraits.markdown(measured(0.4, 0.6)).splitlines()
    assert lines[2].startswith("| plain | 1 of 2 | 0.10 (0.00 to 0.20) | 0.05 (0.00 to 0.10) |")
    assert lines[5] == (
        "| face at 0.75 | 2 of 2 | 0.60 (0.60 to 0.60) | 0.30 (0.30 to 0.30) "
        "| 0.75 (0.75 to 0.75) | 0.75 (0.75 to 0.75) |"
    )
    assert lines[9].endswith("| 0.80 (0.80 to 0.80) | 0.40 (0.40 to 0.40) | 1 | 1 |")


def test_scenes_that_share_a_person_make_the_interval_wider_than_as_many_people():
    values = np.repeat([0.2, 0.4, 0.6, 0.8], 6)
    few = bench_portraits.resampled_means([values[start : start + 6] for start in range(0, 24, 6)])
    many = bench_portraits.resampled_means([values[i : i + 1] for i in range(24)])
    assert few.mean() == pytest.approx(0.5, abs=0.01)
    assert few.std() > 2 * many.std(), "four people are no 24"
