"""One optimisation step: the prediction of the U-Net, the losses, and the update of the weights."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch

from likeness.models.conditioning import Conditioning, conditioning, size_ids
from likeness.models.lora_file import DTYPES
from likeness.training import noise
from likeness.training.losses import losses, preservation, training_target
from likeness.training.pictures import Pictures
from likeness.training.plan import step_seed
from likeness.training.run import Run, with_average_weights

MAX_GRAD_NORM = 1.0
# Spread over all timesteps, so that their mean represents all. They are fixed, so that epochs can be compared.
VALIDATION_TIMESTEPS = (100, 300, 500, 700, 900)


class Losses(NamedTuple):
    """The losses of one call of the U-Net: `loss` has a number for each picture, `preservation` one for each picture on
    which the class is preserved. Either may be empty."""

    loss: torch.Tensor
    preservation: torch.Tensor


def optimisation_step(run: Run, batch: list[int], asked_to_stop: bool) -> tuple[torch.Tensor, bool]:
    """Run one optimisation step over `batch`, the pictures of all accumulated micro-batches.

    Returns a tensor (3,) on the device with the mean loss, the norm of the gradients and the mean preservation loss (-1
    if the class was preserved on no picture); and True if a process was asked to stop.

    Several processes make the same step as one process would, except that each samples its own dropout.
    """
    settings, processes, device = run.settings, run.processes, run.processes.device
    sampled = noise.sample(settings, run.step, run.pictures.shape(batch), run.noise_schedule.config.num_train_timesteps)
    chosen = sampled["preserved"].tolist()
    preserved = [yes and not run.pictures.is_prior(number) for yes, number in zip(chosen, batch, strict=True)]
    # Divided by the expected number of preserved pictures, not by the sampled one: a step of one picture may have none.
    preserve_weight = settings.preserve_class / (settings.preserve_class_share * len(batch))
    seed = step_seed(settings.seed, run.step)
    torch.manual_seed(seed + processes.number)  # for dropout
    run.optimizer.zero_grad(set_to_none=True)
    loss, preservation_sum = torch.zeros(2, device=device)
    run.scaler.scale(loss)  # initialises the scaler, also if this process has no picture in the step
    share = processes.share(len(batch))
    for start in range(0, len(share), settings.batch_size):
        positions = list(share[start : start + settings.batch_size])
        micro_sampled = {name: _on_device(tensor[positions], device) for name, tensor in sampled.items()}
        shuffle_seeds = [f"{seed}/{position}" for position in positions]
        rows = [row for row, position in enumerate(positions) if preserved[position]]
        micro_batch = [batch[position] for position in positions]
        for part in _losses(run, micro_batch, micro_sampled, shuffle_seeds, rows):
            mean = part.loss.sum() / len(batch)
            run.scaler.scale(mean + preserve_weight * part.preservation.sum()).backward()
            loss = loss + mean.detach()
            preservation_sum = preservation_sum + part.preservation.detach().sum()
    parameters = run.parameters
    loss, preservation_sum, stops = processes.add_up(
        parameters, loss, preservation_sum, torch.tensor(float(asked_to_stop))
    )
    run.scaler.unscale_(run.optimizer)
    norm = torch.nn.utils.clip_grad_norm_(parameters, MAX_GRAD_NORM)
    run.scaler.step(run.optimizer)
    run.scaler.update()
    run.lr_scheduler.step()
    if run.average and settings.ema_decay:
        # As in diffusers' EMAModel, the decay is small at first, so that the first weights do not dominate the average.
        decay = min(settings.ema_decay, (1 + run.step) / (10 + run.step)) if run.step else 0.0
        torch._foreach_lerp_(run.average, [p.detach() for p in parameters], 1 - decay)
    mean_preservation = preservation_sum / sum(preserved) if any(preserved) else preservation_sum - 1
    numbers = [loss, norm.to(loss.dtype), mean_preservation]
    # All processes stop after the same step: the one in which add_up has told every process.
    return torch.stack(numbers), bool(asked_to_stop if processes.count == 1 else stops)


def _losses(
    run: Run, batch: list[int], sampled: dict[str, torch.Tensor], shuffle_seeds: Sequence[str], rows: list[int]
) -> Iterator[Losses]:
    """The losses of a micro-batch, from one or two calls of the U-Net. The caller computes the gradients of the first
    call before the second one runs, so that only the activations of one call are in memory.

    `shuffle_seeds` are the seeds for shuffling the captions. `rows` are the rows of `batch` on which the class is
    preserved: with the same noise and the caption without the person, the prediction should equal the base model's.
    """
    settings, schedule, pictures = run.settings, run.noise_schedule, run.pictures
    timesteps, no_losses = sampled["timesteps"], torch.zeros(0, device=run.processes.device)
    clean = pictures.clean(batch, sampled["posterior"], sampled["flipped"])
    noisy_latents = schedule.add_noise(clean, sampled["noise"], timesteps)
    target = training_target(schedule, clean, sampled["noise"], timesteps)

    def encode(some_rows: Sequence[int]) -> Conditioning:
        numbers, seeds = [batch[row] for row in some_rows], [shuffle_seeds[row] for row in some_rows]
        return _prompt_embeds(run, pictures, numbers, sampled["dropped"][some_rows], seeds)

    def encode_class() -> Conditioning:
        return _class_prompt_embeds(run, [batch[row] for row in rows], sampled["class_words"][rows])

    all_rows, base_pred = list(range(len(batch))), None
    if settings.masked_prior or settings.dco_beta:
        base_pred = _base_pred(run, noisy_latents, timesteps, lambda: encode(all_rows))
    priors = [row for row in all_rows if pictures.is_prior(batch[row])] if settings.prior_prediction else []
    if priors:
        if base_pred is None:
            prior_target = _base_pred(run, noisy_latents[priors], timesteps[priors], lambda: encode(priors))
        else:
            prior_target = base_pred[priors]
        target = target.index_copy(0, torch.tensor(priors, device=target.device), prior_target.to(target.dtype))
    if rows:
        base_class_pred = _base_pred(run, noisy_latents[rows], timesteps[rows], encode_class)
    mask = pictures.masks(batch, sampled["flipped"])

    def weighted(model_pred: torch.Tensor) -> torch.Tensor:
        picture_losses = losses(settings, schedule, model_pred, target, timesteps, mask, base_pred)
        return picture_losses * pictures.weights(batch)

    # There are two calls of the U-Net in two cases: with dropout, because preservation needs a call without it; and
    # with gradient checkpointing, to save memory.
    if rows and not settings.dropout and not settings.gradient_checkpointing:
        with _autocast(run):
            inputs = torch.cat([noisy_latents, noisy_latents[rows]]), torch.cat([timesteps, timesteps[rows]])
            model_pred = _model_pred(run, *inputs, _joined(encode(all_rows), encode_class()))
        yield Losses(weighted(model_pred[: len(batch)]), preservation(model_pred[len(batch) :], base_class_pred))
        return
    with _autocast(run):
        model_pred = _model_pred(run, noisy_latents, timesteps, encode(all_rows))
    yield Losses(weighted(model_pred), no_losses)
    if rows:
        # The caller computes the gradients within this context: gradient checkpointing then computes the activations
        # again, also without dropout.
        with _without_dropout(run):
            with _autocast(run):
                class_pred = _model_pred(run, noisy_latents[rows], timesteps[rows], encode_class())
            yield Losses(no_losses, preservation(class_pred, base_class_pred))


def _prompt_embeds(
    run: Run, pictures: Pictures, batch: list[int], dropped: torch.Tensor, shuffle_seeds: Sequence[str] = ()
) -> Conditioning:
    """The prompt_embeds of the captions of some pictures."""
    if run.encoders:
        return conditioning(run.encoders, pictures.tokens(batch, dropped, shuffle_seeds), run.settings.clip_skip)
    return pictures.text(batch, dropped)


def _class_prompt_embeds(run: Run, batch: list[int], class_words: torch.Tensor) -> Conditioning:
    """The prompt_embeds of the captions without the person."""
    if run.encoders:
        return conditioning(run.encoders, run.pictures.class_tokens(batch, class_words), run.settings.clip_skip)
    return run.pictures.class_text(batch, class_words)


def _model_pred(run: Run, noisy_latents: torch.Tensor, timesteps: torch.Tensor, text: Conditioning) -> torch.Tensor:
    """The U-Net's prediction for noisy_latents (n, 4, h, w)."""
    dtype = DTYPES[run.settings.precision]
    extra = {}
    if text.pooled is not None:
        # A latent pixel corresponds to 8 x 8 px of the picture.
        n, _, height, width = noisy_latents.shape
        ids = size_ids(8 * height, 8 * width, n, noisy_latents.device)
        extra["added_cond_kwargs"] = {"text_embeds": text.pooled.to(dtype), "time_ids": ids.to(dtype)}
    unet = run.networks["unet"].model
    return unet(noisy_latents.to(dtype), timesteps, text.hidden.to(dtype), **extra).sample


def _base_pred(
    run: Run, noisy_latents: torch.Tensor, timesteps: torch.Tensor, encode: Callable[[], Conditioning]
) -> torch.Tensor:
    """The base model's prediction: the LoRA is off in the U-Net, and in the text encoders that `encode` uses."""
    layers = [layer for network in run.networks.values() for layer in network.layers]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        with torch.no_grad(), _autocast(run):
            return _model_pred(run, noisy_latents, timesteps, encode())
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def validation_losses(run: Run) -> list[float]:
    """The mean squared error on each held-out photo, with fixed noise and timesteps."""
    pictures, device, errors = run.heldout, run.processes.device, list[torch.Tensor]()
    with torch.no_grad(), _without_dropout(run), with_average_weights(run):
        for number, item in enumerate(pictures.items):
            generator = torch.Generator().manual_seed(step_seed(run.settings.seed, item["name"]))
            for start in range(0, len(VALIDATION_TIMESTEPS), run.settings.batch_size):
                timesteps = torch.tensor(VALIDATION_TIMESTEPS[start : start + run.settings.batch_size])
                batch = [number] * len(timesteps)
                fixed_noise = torch.randn(pictures.shape(batch), generator=generator).to(device)
                no_picture, timesteps = torch.zeros(len(batch), dtype=torch.bool, device=device), timesteps.to(device)
                clean = pictures.clean(batch, torch.zeros_like(fixed_noise), no_picture)
                with _autocast(run):
                    noisy_latents = run.noise_schedule.add_noise(clean, fixed_noise, timesteps)
                    prompt_embeds = _prompt_embeds(run, pictures, batch, no_picture)
                    model_pred = _model_pred(run, noisy_latents, timesteps, prompt_embeds)
                target = training_target(run.noise_schedule, clean, fixed_noise, timesteps)
                errors.append((model_pred.float() - target.float()).square().mean((1, 2, 3)))
    return torch.cat(errors).reshape(len(pictures.items), -1).mean(1).tolist() if errors else []


def _on_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a tensor to the device. Python does not wait for the copy."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def _joined(first: Conditioning, second: Conditioning) -> Conditioning:
    """The prompt_embeds of two batches as one batch."""
    hidden = torch.cat([first.hidden, second.hidden])
    if first.pooled is None or second.pooled is None:
        return Conditioning(hidden, None)
    return Conditioning(hidden, torch.cat([first.pooled, second.pooled]))


def _autocast(run: Run) -> contextlib.AbstractContextManager[None]:
    precision = run.settings.precision
    half = precision in ("fp16", "bf16")
    return torch.autocast(run.processes.device.type, DTYPES[precision]) if half else contextlib.nullcontext()


@contextlib.contextmanager
def _without_dropout(run: Run) -> Iterator[None]:
    layers = [layer for network in run.networks.values() for layer in network.layers]
    for layer in layers:
        layer.eval()
    try:
        yield
    finally:
        for layer in layers:
            layer.train()
