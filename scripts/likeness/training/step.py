"""One optimisation step: what the U-Net predicts of a batch, what that costs, and the change of the weights."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch

from likeness.conditioning import Conditioning, conditioning, size_ids
from likeness.lora_file import DTYPES
from likeness.training import noise
from likeness.training.losses import losses, preservation, target
from likeness.training.pictures import Pictures
from likeness.training.plan import step_seed
from likeness.training.run import Run, averaged

MAX_GRAD_NORM = 1.0
# From little noise to much, so that the mean of a few stands for all. Fixed, so that epochs can be compared.
VALIDATION_TIMESTEPS = (100, 300, 500, 700, 900)


class Losses(NamedTuple):
    """Of the pictures of one call of the U-Net: the `loss` of each, and the `preservation` of those that the class is
    preserved on. Either may be empty."""

    loss: torch.Tensor
    preservation: torch.Tensor


def optimisation_step(run: Run, batch: list[int], asked_to_stop: bool) -> tuple[torch.Tensor, bool]:
    """One step over `batch` (the pictures of all accumulated micro-batches): the mean loss, the gradients' norm and the
    mean preservation (-1 where the class was preserved on none), still on the device, (3,); and whether a process was
    asked to stop.

    Several processes take the step that one would, but for dropout: each draws its own.
    """
    settings, processes, device = run.settings, run.processes, run.processes.device
    drawn = noise.drawn(settings, run.step, run.pictures.shape(batch), run.noise_schedule.config.num_train_timesteps)
    chosen = drawn["preserved"].tolist()
    preserved = [yes and not run.pictures.is_prior(number) for yes, number in zip(chosen, batch, strict=True)]
    # Divided by the expected number of preserved pictures, not by the drawn one: a step of one picture may have none.
    preserve_weight = settings["preserve_class"] / (settings["preserve_class_share"] * len(batch))
    seed = step_seed(settings["seed"], run.step)
    torch.manual_seed(seed + processes.number)  # for dropout
    run.optimizer.zero_grad(set_to_none=True)
    loss, moved = torch.zeros(2, device=device)
    run.scaler.scale(loss)  # makes its scale, also where no picture is left for this process
    mine = processes.share(len(batch))
    for start in range(0, len(mine), settings["batch_size"]):
        places = list(mine[start : start + settings["batch_size"]])
        chance = {name: _on_device(tensor[places], device) for name, tensor in drawn.items()}
        orders = [f"{seed}/{place}" for place in places]
        rows = [row for row, place in enumerate(places) if preserved[place]]
        for part in _losses(run, [batch[place] for place in places], chance, orders, rows):
            mean = part.loss.sum() / len(batch)
            run.scaler.scale(mean + preserve_weight * part.preservation.sum()).backward()
            loss, moved = loss + mean.detach(), moved + part.preservation.detach().sum()
    parameters = run.parameters
    loss, moved, stops = processes.add_up(parameters, loss, moved, torch.tensor(float(asked_to_stop)))
    run.scaler.unscale_(run.optimizer)
    norm = torch.nn.utils.clip_grad_norm_(parameters, MAX_GRAD_NORM)
    run.scaler.step(run.optimizer)
    run.scaler.update()
    run.lr_scheduler.step()
    if run.average:
        # As diffusers' EMAModel: the average follows quickly at first, or it would be mostly the start.
        decay = min(settings["ema_decay"], (1 + run.step) / (10 + run.step)) if run.step else 0.0
        torch._foreach_lerp_(run.average, [p.detach() for p in parameters], 1 - decay)
    numbers = [loss, norm.to(loss.dtype), moved / sum(preserved) if any(preserved) else moved - 1]
    # Several processes leave together, after the step in which all have heard of it.
    return torch.stack(numbers), bool(asked_to_stop if processes.count == 1 else stops)


def _losses(
    run: Run, batch: list[int], drawn: dict[str, torch.Tensor], orders: Sequence[str], rows: list[int]
) -> Iterator[Losses]:
    """The losses of a micro-batch, from one call of the U-Net or from two. The gradients of one are computed before the
    next, so that memory holds the activations of one at a time.

    `orders` are the seeds by which captions are shuffled. On the pictures of `rows` the class is preserved: with the
    same noise, the answer to the caption without the person shall be the base model's.
    """
    settings, schedule, pictures = run.settings, run.noise_schedule, run.pictures
    timesteps, none = drawn["timesteps"], torch.zeros(0, device=run.processes.device)
    clean = pictures.clean(batch, drawn["posterior"], drawn["flipped"])
    noisy_latents = schedule.add_noise(clean, drawn["noise"], timesteps)
    goal = target(schedule, clean, drawn["noise"], timesteps)

    def read(places: Sequence[int]) -> Conditioning:
        chosen = [batch[place] for place in places]
        return _read(run, pictures, chosen, drawn["dropped"][places], [orders[place] for place in places])

    def read_class() -> Conditioning:
        return _read_class(run, [batch[row] for row in rows], drawn["class_words"][rows])

    every, base_pred = list(range(len(batch))), None
    if settings["masked_prior"] or settings["dco_beta"]:
        base_pred = _base_pred(run, noisy_latents, timesteps, lambda: read(every))
    priors = [place for place in every if pictures.is_prior(batch[place])] if settings["prior_prediction"] else []
    if priors:
        if base_pred is None:
            taught = _base_pred(run, noisy_latents[priors], timesteps[priors], lambda: read(priors))
        else:
            taught = base_pred[priors]
        goal = goal.index_copy(0, torch.tensor(priors, device=goal.device), taught.to(goal.dtype))
    if rows:
        base_class_pred = _base_pred(run, noisy_latents[rows], timesteps[rows], read_class)
    mask = pictures.masks(batch, drawn["flipped"])

    def weighted(model_pred: torch.Tensor) -> torch.Tensor:
        found = losses(settings, schedule, model_pred, goal, timesteps, mask, base_pred)
        return found * pictures.weights(batch)

    # Preservation must run without dropout, so with dropout there are two calls; with gradient checkpointing too, to
    # save memory.
    if rows and not settings["dropout"] and not settings["gradient_checkpointing"]:
        with _autocast(run):
            both = _joined(noisy_latents, noisy_latents[rows]), _joined(timesteps, timesteps[rows])
            model_pred = _model_pred(run, *both, Conditioning(*map(_joined, read(every), read_class())))
        yield Losses(weighted(model_pred[: len(batch)]), preservation(model_pred[len(batch) :], base_class_pred))
        return
    with _autocast(run):
        model_pred = _model_pred(run, noisy_latents, timesteps, read(every))
    yield Losses(weighted(model_pred), none)
    if rows:
        # Until the gradients are there: checkpointing computes the activations again for them.
        with _without_dropout(run):
            with _autocast(run):
                class_pred = _model_pred(run, noisy_latents[rows], timesteps[rows], read_class())
            yield Losses(none, preservation(class_pred, base_class_pred))


def _read(
    run: Run, pictures: Pictures, batch: list[int], dropped: torch.Tensor, orders: Sequence[str] = ()
) -> Conditioning:
    """What the U-Net reads of the captions of some pictures."""
    if run.encoders:
        return conditioning(run.encoders, pictures.tokens(batch, dropped, orders), run.settings["clip_skip"])
    return Conditioning(pictures.text("hidden", batch, dropped), pictures.text("pooled", batch, dropped))


def _read_class(run: Run, batch: list[int], class_words: torch.Tensor) -> Conditioning:
    """What the U-Net reads of the captions without the person."""
    if run.encoders:
        tokens = run.pictures.class_text("tokens", batch, class_words)
        return conditioning(run.encoders, tokens, run.settings["clip_skip"])
    return Conditioning(*(run.pictures.class_text(name, batch, class_words) for name in ("hidden", "pooled")))


def _model_pred(run: Run, noisy_latents: torch.Tensor, timesteps: torch.Tensor, text: Conditioning) -> torch.Tensor:
    """The U-Net's answer to noisy latents (n, 4, h, w)."""
    dtype = DTYPES[run.settings["precision"]]
    extra = {}
    if text.pooled is not None:
        # A latent stands for 8 x 8 px.
        n, _, height, width = noisy_latents.shape
        ids = size_ids(8 * height, 8 * width, n, noisy_latents.device)
        extra["added_cond_kwargs"] = {"text_embeds": text.pooled.to(dtype), "time_ids": ids.to(dtype)}
    unet = run.networks["unet"].model
    return unet(noisy_latents.to(dtype), timesteps, text.hidden.to(dtype), **extra).sample


def _base_pred(
    run: Run, noisy_latents: torch.Tensor, timesteps: torch.Tensor, read: Callable[[], Conditioning]
) -> torch.Tensor:
    """The base model's answer: without the LoRA, in the U-Net and in the text encoders that `read` the words."""
    layers = [layer for network in run.networks.values() for layer in network.layers]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        with torch.no_grad(), _autocast(run):
            return _model_pred(run, noisy_latents, timesteps, read())
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def validation_losses(run: Run) -> list[float]:
    """The mean squared error on each photo that is never trained on, at fixed noise and timesteps."""
    pictures, device, found = run.heldout, run.processes.device, []
    with torch.no_grad(), _without_dropout(run), averaged(run):
        for number, item in enumerate(pictures.items):
            generator = torch.Generator().manual_seed(step_seed(run.settings["seed"], item["name"]))
            for start in range(0, len(VALIDATION_TIMESTEPS), run.settings["batch_size"]):
                timesteps = torch.tensor(VALIDATION_TIMESTEPS[start : start + run.settings["batch_size"]])
                batch = [number] * len(timesteps)
                fixed = torch.randn(pictures.shape(batch), generator=generator).to(device)
                none, timesteps = torch.zeros(len(batch), dtype=torch.bool, device=device), timesteps.to(device)
                clean = pictures.clean(batch, torch.zeros_like(fixed), none)
                with _autocast(run):
                    noisy_latents = run.noise_schedule.add_noise(clean, fixed, timesteps)
                    model_pred = _model_pred(run, noisy_latents, timesteps, _read(run, pictures, batch, none))
                goal = target(run.noise_schedule, clean, fixed, timesteps)
                found.append((model_pred.float() - goal.float()).square().mean((1, 2, 3)))
    return torch.cat(found).reshape(len(pictures.items), -1).mean(1).tolist() if found else []


def _on_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """On the device, without making Python wait for it."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def _joined(first: torch.Tensor | None, second: torch.Tensor | None) -> torch.Tensor | None:
    return None if first is None else torch.cat([first, second])


def _autocast(run: Run) -> contextlib.AbstractContextManager:
    precision = run.settings["precision"]
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
