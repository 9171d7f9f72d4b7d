"""The loss of a prediction: target, error, mask and timestep weight. The result is one number per picture."""

from collections.abc import Sequence
from typing import Any

import torch

from likeness.training.settings import Settings

# The weight of the picture outside the head (OneTrainer's "unmasked weight"). At 0 the background would not be trained
# at all and could become anything.
BACKGROUND_WEIGHT = 0.1
# The head, with hair and ears, over the face, which reaches from hairline to chin and from cheek to cheek.
HEAD = 1.6
MAX_SNR = 1000.0  # the limit of kohya's trainer: the ratio of the first timesteps is too large for a weight


def training_target(schedule: Any, clean: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
    """The target of the U-Net's prediction: the noise, or the velocity (Salimans & Ho 2022, arXiv:2202.00512)."""
    if schedule.config.prediction_type == "v_prediction":
        return schedule.get_velocity(clean, noise, timesteps)
    return noise


def losses(
    settings: Settings,
    schedule: Any,
    model_pred: torch.Tensor,
    target: torch.Tensor,
    timesteps: torch.Tensor,
    mask: torch.Tensor | None = None,
    base_pred: torch.Tensor | None = None,
) -> torch.Tensor:
    """The loss of each picture, (n,) in fp32 or wider. `model_pred`, `target` and `base_pred`, the base model's
    prediction, are (n, c, h, w), `mask` is (n, 1, h, w). dco_beta and masked_prior need `base_pred`.

    The mask of each picture is scaled to a mean of 1, so that a small face does not learn more slowly.

    train.dco_beta: direct consistency optimisation, -log sigmoid(-beta (error - error of base_pred)) (Lee et al. 2024,
    arXiv:2402.12004). It is multiplied by 2 / beta, so that the first gradient is that of the plain error.

    train.masked_prior is the weight of a further term: the error of model_pred against base_pred outside the mask. Its
    mask, 1 - mask, is also scaled to a mean of 1. Sources: OneTrainer's masked prior preservation
    (modules/util/loss/masked_loss.py, normalised), ai-toolkit's inverted_mask_prior. The term is 0 for a picture
    without a face.
    """
    wide_dtype = torch.promote_types(model_pred.dtype, torch.float32)
    weights = timestep_weights(settings, schedule, timesteps).to(wide_dtype)

    def mean_error(pred: torch.Tensor, reference: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        error = _error(settings, schedule, pred.to(wide_dtype) - reference.to(wide_dtype), timesteps)
        if mask is not None:
            error = error * _mean_of_one(mask.to(wide_dtype))
        return error.mean((1, 2, 3)) * weights

    loss = mean_error(model_pred, target, mask)
    if beta := settings.dco_beta:
        assert base_pred is not None, "dco_beta needs base_pred"
        gain = mean_error(base_pred, target, mask) - loss
        loss = -2 / beta * torch.nn.functional.logsigmoid(beta * gain)
    if settings.masked_prior:
        assert base_pred is not None and mask is not None, "masked_prior needs base_pred and masked_loss"
        loss = loss + settings.masked_prior * mean_error(model_pred, base_pred, 1 - mask)
    return loss


def preservation(class_pred: torch.Tensor, base_pred: torch.Tensor) -> torch.Tensor:
    """The preservation loss of each picture, (n,) in fp32 or wider: how far the class has moved. It is the mean squared
    difference of two predictions (n, c, h, w) for captions without the person: with the LoRA (`class_pred`) and without
    it (`base_pred`).

    Sources: ai-toolkit's differential output preservation (extensions_built_in/sd_trainer/SDTrainer.py), kohya's
    diff_output_preservation (sd-scripts PR #1710).
    """
    wide_dtype = torch.promote_types(class_pred.dtype, torch.float32)
    return (class_pred.to(wide_dtype) - base_pred.to(wide_dtype)).square().mean((1, 2, 3))


def _mean_of_one(mask: torch.Tensor) -> torch.Tensor:
    """Masks (n, 1, h, w), each scaled to a mean of 1. A mask of zeros stays as it is."""
    return mask / mask.mean((1, 2, 3), keepdim=True).clamp(min=torch.finfo(mask.dtype).tiny)


def timestep_weights(settings: Settings, schedule: Any, timesteps: torch.Tensor) -> torch.Tensor:
    """The weight of each timestep in the loss, (n,) in fp64. It is 1 unless one of two settings is on, which weight by
    the signal-to-noise ratio SNR.

    min_snr_gamma: min(SNR, gamma) / SNR for epsilon, min(SNR, gamma) / (SNR + 1) for v (Hang et al. 2023,
    arXiv:2303.09556, 3.4).

    debiased_estimation: 1 / sqrt(SNR) for epsilon (Yu et al. 2023, arXiv:2310.08442), 1 / (SNR + 1) for v (as in
    kohya's trainer). The error of v is the error of the picture divided by sqrt(SNR + 1), the error of epsilon that
    divided by sqrt(SNR).
    """
    snr, velocity = _snr(schedule, timesteps), schedule.config.prediction_type == "v_prediction"
    if settings.min_snr_gamma is not None:
        return snr.clamp(max=settings.min_snr_gamma) / (snr + velocity)
    if settings.debiased_estimation:
        snr = snr.clamp(max=MAX_SNR)
        return 1 / (snr + 1) if velocity else snr.rsqrt()
    return torch.ones_like(snr)


def head_weights(face: Sequence[float] | None, height: int, width: int) -> torch.Tensor:
    """The weight of each latent pixel, (1, height, width): 1 within the ellipse of the head, BACKGROUND_WEIGHT outside.
    Without a face it is 1 everywhere. `face` is the face's centre and size (x, y, width, height) as shares of the
    picture."""
    if face is None:
        return torch.ones(1, height, width)
    x, y, face_width, face_height = face
    across = ((torch.arange(width) + 0.5) / width - x) / (HEAD * face_width / 2)
    down = ((torch.arange(height) + 0.5) / height - y) / (HEAD * face_height / 2)
    inside = across[None, :] ** 2 + down[:, None] ** 2 <= 1
    return torch.where(inside, 1.0, BACKGROUND_WEIGHT)[None]


def _error(settings: Settings, schedule: Any, difference: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
    """The squared error d^2, or the pseudo-Huber loss 2c (sqrt(d^2 + c^2) - c), which is about d^2 for small and about
    2c |d| for large differences d."""
    if settings.loss == "l2":
        return difference**2
    c = huber_c(settings, schedule, timesteps).to(difference.dtype)[:, None, None, None]
    return 2 * c * ((difference**2 + c**2).sqrt() - c)


def huber_c(settings: Settings, schedule: Any, timesteps: torch.Tensor) -> torch.Tensor:
    """The parameter c of the pseudo-Huber loss, (n,) in fp64: the difference at which the loss turns from squared to
    absolute. With huber_schedule `snr` it is large at low noise and falls to huber_c at high noise. With `exponential`
    it falls from 1 to huber_c over the timesteps. With `constant` it is huber_c.

    Source: Khrapov et al. 2024, "Improving Diffusion Models's Data-Corruption Resistance using Scheduled Pseudo-Huber
    Loss", arXiv:2403.16728; the formulas are those of kohya's trainer.
    """
    c = settings.huber_c
    if settings.huber_schedule == "snr":
        sigma = _snr(schedule, timesteps).rsqrt()
        return (1 - c) / (1 + sigma) ** 2 + c
    constant = torch.full_like(timesteps, c, dtype=torch.float64)
    if settings.huber_schedule == "constant":
        return constant
    return constant ** (timesteps / schedule.config.num_train_timesteps)


def _snr(schedule: Any, timesteps: torch.Tensor) -> torch.Tensor:
    # In fp32, 1 - alphas_cumprod would have few correct digits at the first timesteps.
    alphas_cumprod = schedule.alphas_cumprod.to(timesteps.device, torch.float64)[timesteps]
    return alphas_cumprod / (1 - alphas_cumprod)
