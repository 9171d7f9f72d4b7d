"""The loss on held-out photos is measured once per epoch, always at the same noise."""

import pytest
import torch

from likeness.training.plan import step_seed
from trained_run import WIDTH, loras, made_up_data, trained

pytestmark = pytest.mark.usefixtures("every_step_is_reported")


def validation_losses(run) -> list:
    return [row["validation_loss"] for row in run.metrics]


def test_losses_on_other_held_out_photos_are_left_out(tmp_path, base_manifest, capsys):
    """The LoRA does not depend on them, so its training goes on from where it was."""
    options = {"lr_scheduler": "constant", "max_train_steps": None, "repeats": 2}
    data = made_up_data(WIDTH)
    for name in ("same", "other"):
        trained(tmp_path / name, base_manifest, data, epochs=1, **options).store._lock.close()
    same = trained(tmp_path / "same", base_manifest, data, epochs=2, **options)
    assert "held-out photos have changed" not in capsys.readouterr().out
    data[0]["heldout"][0]["sha256"] = "another photo"
    data[1]["heldout"]["mean"][0] += 1
    other = trained(tmp_path / "other", base_manifest, data, epochs=2, **options)
    assert capsys.readouterr().out.count("held-out photos have changed") == 1
    measured = validation_losses(other)
    assert len(measured) == 10 and measured[:9] == [""] * 9 and measured[9] > 0
    assert validation_losses(same)[4] > 0 and validation_losses(same)[9] not in ("", measured[9])
    assert loras(other) == loras(same)


def test_validation_is_the_error_on_held_out_photos_at_fixed_noise(tmp_path, base_manifest):
    """Once per epoch; of the silent LoRA of a first epoch without learning, it is the base model's."""
    from diffusers import DDPMScheduler, UNet2DConditionModel

    run = trained(tmp_path / "one", base_manifest, learning_rate=1e-9)
    per_epoch = len(run.metrics) // 2
    measured = [row["validation_loss"] for row in run.metrics if row["validation_loss"] != ""]
    assert len(measured) == 2 and measured[0] == run.metrics[per_epoch - 1]["validation_loss"]
    _, latents = made_up_data(WIDTH)
    unet = UNet2DConditionModel.from_pretrained(base_manifest["path"], subfolder="unet")
    schedule = DDPMScheduler.from_pretrained(base_manifest["path"], subfolder="scheduler")
    errors = []
    for number, name in enumerate(("h00", "h01")):
        generator = torch.Generator().manual_seed(step_seed(42, name))
        for times in ((100, 300), (500, 700), (900,)):  # at batch size 2
            noise = torch.randn(len(times), 4, 8, 8, generator=generator)
            clean = latents["heldout"]["mean"][number].repeat(len(times), 1, 1, 1)
            hidden = latents["heldout"]["hidden"][number].repeat(len(times), 1, 1)
            with torch.no_grad():
                found = unet(schedule.add_noise(clean, noise, torch.tensor(times)), torch.tensor(times), hidden).sample
            errors += (found - noise).square().mean((1, 2, 3)).tolist()
    assert measured[0] == pytest.approx(sum(errors) / len(errors), rel=1e-5)
    learned = trained(tmp_path / "two", base_manifest, learning_rate=1e-2)
    assert learned.metrics[-1]["validation_loss"] != pytest.approx(measured[0], rel=1e-4)
