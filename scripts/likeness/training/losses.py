"""What a prediction costs: target, error, mask, and the weight of its timestep. One number per picture."""

from collections.abc import Mapping, Sequence

import torch

# Of what is not the head, as OneTrainer's "unmasked weight": at 0 the background would be anything at all.
BACKGROUND_WEIGHT = 0.1
# A face reaches from hairline to chin and from cheek to cheek; the head, with hair and ears, is this much larger.
HEAD = 1.6
MAX_SNR = 1000.0  # the first timesteps' ratio is larger than any weight should be (as in kohya's trainer)


def target(schedule, clean: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
    """What the U-Net should have said: the noise, or the velocity (Salimans & Ho 2022, arXiv:2202.00512)."""
    if schedule.config.prediction_type == "v_prediction":
        return schedule.get_velocity(clean, noise, timesteps)
    return noise


def losses(
    train: Mapping,
    schedule,
    predicted: torch.Tensor,
    wanted: torch.Tensor,
    timesteps: torch.Tensor,
    mask: torch.Tensor | None = None,
    base_pred: torch.Tensor | None = None,
) -> torch.Tensor:
    """The loss of each picture, (n,) in fp32 at least. `predicted`, `wanted` and `base_pred`, what the base model
    predicts, are (n, c, h, w), `mask` (n, 1, h, w). The base's is needed by dco_beta and masked_prior.

    The mask's weights are brought to a mean of 1 per picture, so that a small face does not learn more slowly.

    train.dco_beta: direct consistency optimisation, -log sigmoid(-beta (error - the base's error)) (Lee et al. 2024,
    arXiv:2402.12004), times 2 / beta, so that the gradient starts as that of the plain error.

    train.masked_prior times the error against the base's answer is added, weighted by what the mask leaves out and
    brought to a mean of 1 too: OneTrainer's masked prior preservation (modules/util/loss/masked_loss.py, normalised),
    ai-toolkit's inverted_mask_prior. A picture without a face has no outside.
    """
    wide = torch.promote_types(predicted.dtype, torch.float32)
    weights = timestep_weights(train, schedule, timesteps).to(wide)

    def mean_error(answer: torch.Tensor, goal: torch.Tensor, counted: torch.Tensor | None) -> torch.Tensor:
        error = _error(train, schedule, answer.to(wide) - goal.to(wide), timesteps)
        if counted is not None:
            error = error * _mean_of_one(counted.to(wide))
        return error.mean((1, 2, 3)) * weights

    loss = mean_error(predicted, wanted, mask)
    if beta := train["dco_beta"]:
        gain = mean_error(base_pred, wanted, mask) - loss
        loss = -2 / beta * torch.nn.functional.logsigmoid(beta * gain)
    if train["masked_prior"]:
        loss = loss + train["masked_prior"] * mean_error(predicted, base_pred, 1 - mask)
    return loss


def preservation(class_pred: torch.Tensor, base_pred: torch.Tensor) -> torch.Tensor:
    """How far the class has moved, (n,) in fp32 at least: the mean squared difference of the predictions (n, c, h, w)
    with the LoRA and without it, for captions that do not name the person.

    Sources: ai-toolkit's differential output preservation (extensions_built_in/sd_trainer/SDTrainer.py), kohya's
    diff_output_preservation (sd-scripts PR #1710).
    """
    wide = torch.promote_types(class_pred.dtype, torch.float32)
    return (class_pred.to(wide) - base_pred.to(wide)).square().mean((1, 2, 3))


def _mean_of_one(mask: torch.Tensor) -> torch.Tensor:
    """Weights (n, 1, h, w) brought to a mean of 1 per picture; all 0 stay 0."""
    return mask / mask.mean((1, 2, 3), keepdim=True).clamp(min=torch.finfo(mask.dtype).tiny)


def timestep_weights(train: Mapping, schedule, timesteps: torch.Tensor) -> torch.Tensor:
    """(n,) in fp64: 1, or by the signal-to-noise ratio.

    min_snr_gamma: min(SNR, gamma) / SNR for epsilon, / (SNR + 1) for v (Hang et al. 2023, arXiv:2303.09556, 3.4).
    debiased_estimation: 1 / sqrt(SNR) for epsilon (Yu et al. 2023, arXiv:2310.08442), 1 / (SNR + 1) for v (as in
    kohya's trainer): the error of v is that of the picture over sqrt(SNR + 1), where that of epsilon is over sqrt(SNR).
    """
    snr, velocity = _snr(schedule, timesteps), schedule.config.prediction_type == "v_prediction"
    if train["min_snr_gamma"] is not None:
        return snr.clamp(max=train["min_snr_gamma"]) / (snr + velocity)
    if train["debiased_estimation"]:
        snr = snr.clamp(max=MAX_SNR)
        return 1 / (snr + 1) if velocity else snr.rsqrt()
    return torch.ones_like(snr)


def head_weights(face: Sequence[float] | None, height: int, width: int) -> torch.Tensor:
    """How much each place of a latent counts, (1, height, width): 1 in the ellipse of the head, else BACKGROUND_WEIGHT;
    1 everywhere without a face. `face` is its middle and size (x, y, width, height) as shares of the picture."""
    if face is None:
        return torch.ones(1, height, width)
    x, y, face_width, face_height = face
    across = ((torch.arange(width) + 0.5) / width - x) / (HEAD * face_width / 2)
    down = ((torch.arange(height) + 0.5) / height - y) / (HEAD * face_height / 2)
    inside = across[None, :] ** 2 + down[:, None] ** 2 <= 1
    return torch.where(inside, 1.0, BACKGROUND_WEIGHT)[None]


def _error(train: Mapping, schedule, difference: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
    """Squared error, or the pseudo-Huber loss 2c (sqrt(d^2 + c^2) - c), about d^2 near 0 and 2c |d| far out."""
    if train["loss"] == "l2":
        return difference**2
    c = huber_c(train, schedule, timesteps).to(difference.dtype)[:, None, None, None]
    return 2 * c * ((difference**2 + c**2).sqrt() - c)


def huber_c(train: Mapping, schedule, timesteps: torch.Tensor) -> torch.Tensor:
    """(n,) in fp64: where the loss turns from squared to absolute. huber_schedule `snr` makes it large where there is
    little noise and huber_c where there is much, `exponential` falls from 1 to huber_c, `constant` is huber_c.

    Source: Khrapov et al. 2024, "Improving Diffusion Models's Data-Corruption Resistance using Scheduled Pseudo-Huber
    Loss", arXiv:2403.16728; the formulas are those of kohya's trainer.
    """
    c = train["huber_c"]
    match train["huber_schedule"]:
        case "constant":
            return torch.full_like(timesteps, c, dtype=torch.float64)
        case "exponential":
            share = timesteps / schedule.config.num_train_timesteps
            return torch.full_like(timesteps, c, dtype=torch.float64) ** share
        case "snr":
            sigma = _snr(schedule, timesteps).rsqrt()
            return (1 - c) / (1 + sigma) ** 2 + c


def _snr(schedule, timesteps: torch.Tensor) -> torch.Tensor:
    # 1 - kept of the first timesteps has few digits left in fp32.
    kept = schedule.alphas_cumprod.to(timesteps.device, torch.float64)[timesteps]
    return kept / (1 - kept)
