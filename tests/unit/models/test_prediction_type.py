"""A base model is trained and drawn by what it predicts, the noise or a velocity."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from found_base import found_single
from likeness.core.errors import LikenessError
from likeness.models.base_model import load_manifest, load_part, manifest
from likeness.models.families import SD2, SDXL
from likeness.training.losses import training_target

V_PRED = {"v_pred": torch.tensor([])}


def trained_target(base: dict) -> str:
    """What training on a base model asks of its U-Net, by the numbers."""
    schedule = load_part(base, "scheduler")
    clean, noise, step = torch.full((1, 4, 8, 8), 3.0), torch.ones(1, 4, 8, 8), torch.tensor([500])
    asked = training_target(schedule, clean, noise, step)
    kept = schedule.alphas_cumprod[500]
    velocity = kept.sqrt() * noise - (1 - kept).sqrt() * clean
    kinds = {"epsilon": noise, "v_prediction": velocity}
    return next(kind for kind, wanted in kinds.items() if torch.allclose(asked, wanted))


def test_a_zero_terminal_snr_file_is_trained_and_drawn_to_pure_noise(tmp_path, model_files, single_model):
    single_model(SDXL, V_PRED | {"ztsnr": torch.tensor([])})
    base = found_single(tmp_path, model_files)
    assert base["prediction_type"] == trained_target(base) == "v_prediction"
    assert load_part(base, "scheduler").alphas_cumprod[-1] == 0
    from likeness.drawing.sampling import load_pipeline

    drawn = load_pipeline(base, None, torch.device("cpu")).diffusers.scheduler
    drawn.set_timesteps(4)
    assert drawn.timesteps[0] == 999 and drawn.sigmas[0] > 1000, "it starts from noise alone"


def test_what_an_older_version_thought_of_a_file_is_corrected(tmp_path, model_files, single_model):
    """Converted models are kept, and SD 2 was once always taken for v-prediction."""
    single_model(SD2)
    base = found_single(tmp_path, model_files)
    assert base["prediction_type"] == trained_target(base) == "epsilon"
    scheduler = base["path"] / "scheduler/scheduler_config.json"
    scheduler.write_text(scheduler.read_text().replace("epsilon", "v_prediction"))
    assert trained_target(found_single(tmp_path, model_files)) == "epsilon"


@pytest.mark.parametrize("said", ["epsilon", "v_prediction"])
def test_the_users_prediction_type_goes_before_the_models_own(small_base, tmp_path, said):
    """For training and for drawing alike; and what it made is not taken for what the other would have made."""
    from likeness.drawing.sampling import load_pipeline

    for own in ("epsilon", "v_prediction"):
        folder = Path(shutil.copytree(small_base, tmp_path / own))
        scheduler = folder / "scheduler/scheduler_config.json"
        scheduler.write_text(json.dumps(json.loads(scheduler.read_text()) | {"prediction_type": own}))
        plain = manifest(own, folder, tmp_path)
        about = manifest(own, folder, tmp_path, prediction_type=said)
        assert plain["prediction_type"] == own and about["prediction_type"] == said
        assert (plain["digest"] == about["digest"]) == (own == said)
        (tmp_path / "base.json").write_text(json.dumps(about))
        base = load_manifest(tmp_path / "base.json")
        assert trained_target(base) == said
        assert load_pipeline(base, None, torch.device("cpu")).diffusers.scheduler.config.prediction_type == said


def test_a_model_that_predicts_something_else_is_refused(half, tmp_path):
    scheduler = half / "scheduler/scheduler_config.json"
    scheduler.write_text(json.dumps(json.loads(scheduler.read_text()) | {"prediction_type": "sample"}))
    with pytest.raises(
        LikenessError, match="prediction_type 'sample' in its scheduler_config.json; expected epsilon or"
    ):
        manifest("half", half, tmp_path)
    assert manifest("half", half, tmp_path, prediction_type="epsilon")["prediction_type"] == "epsilon"
