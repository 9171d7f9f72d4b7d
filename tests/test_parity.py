"""A training, step by step, beside one that is written here from the papers' formulas in double precision.

Nothing but diffusers' U-Net and its noise schedule is shared: the LoRA is added to the weights by hand, the loss, the
clipping, the learning rate and the optimizer are formulas. Given are the data, and what is drawn for each step.
"""

import math

import numpy as np
import pytest
import safetensors.torch
import torch

import reference_optimizers as reference
from likeness import lora_file
from likeness.dataset import sizes
from likeness.training import adapters, noise
from likeness.training.losses import head_weights
from likeness.training.plan import batches
from trained_run import base_width, made_up_data, short_settings, trained

OPTIMIZERS = {
    "AdamW": reference.AdamW,
    "Adafactor": reference.Adafactor,
    "Lion": reference.Lion,
    "DAdaptAdam": reference.DAdaptAdam,
    "Prodigy": reference.Prodigy,
}
EXACT = {"precision": "fp64", "save_precision": "fp64"}


@pytest.fixture(autouse=True)
def double_precision(monkeypatch):
    """The trainer itself, with numbers that are good enough to compare: its code takes the base's precision."""
    monkeypatch.setitem(lora_file.DTYPES, "fp64", torch.float64)


def exact_settings(**changes) -> dict:
    precise = {key: changes.pop(key) for key in ("precision", "save_precision") if key in changes}
    return short_settings(max_train_steps=12, epochs=2, **changes) | EXACT | precise


class Reference:
    """The LoRA as pairs of arrays beside the weights of a frozen U-Net."""

    def __init__(self, base: dict, settings: dict):
        from diffusers import DDPMScheduler, UNet2DConditionModel

        where = {"pretrained_model_name_or_path": base["path"]}
        self.settings = settings
        self.unet = UNet2DConditionModel.from_pretrained(**where, subfolder="unet").double().requires_grad_(False)
        schedule = DDPMScheduler.from_pretrained(**where, subfolder="scheduler")
        self.kept, self.prediction = schedule.alphas_cumprod.double(), schedule.config.prediction_type
        # The same start: down as kaiming-uniform draws it (checked in test_adapters), up at zero.
        torch.manual_seed(settings["seed"])
        start = adapters.networks(settings, base, torch.device("cpu"))["unet"]
        self.modules = start.modules
        tensors = start.tensors()
        names = [f"{m.key}.lora_{way}.weight" for m in self.modules for way in ("down", "up")]
        self.optimizer = OPTIMIZERS[settings["optimizer"]]([tensors[name].double().numpy() for name in names])
        self.names = names

    def weights(self, arrays: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        """Every adapted layer's weight plus alpha / rank times up @ down."""
        scale = self.settings["alpha"] / self.settings["rank"]
        found = {}
        for module, down, up in zip(self.modules, arrays[::2], arrays[1::2], strict=True):
            weight = self.unet.get_parameter(f"{module.path}.weight")
            change = up.flatten(1) @ down.flatten(1)
            found[f"{module.path}.weight"] = weight + scale * change.view_as(weight)
        return found

    def loss(self, arrays: list[torch.Tensor], batch: list[int], step: int, pictures: dict) -> torch.Tensor:
        s, shape = self.settings, (len(batch), *pictures["mean"][0].shape)
        drawn = noise.drawn(s, step, shape, 1000)
        t, eps = drawn["timesteps"], drawn["noise"].double()
        mean, std = (torch.stack([pictures[name][i] for i in batch]).double() for name in ("mean", "std"))
        if s["flip_aug"]:
            for i in drawn["flipped"].nonzero().flatten().tolist():
                mean[i], std[i] = pictures["flipped_mean"][batch[i]], pictures["flipped_std"][batch[i]]
        clean = mean + std * drawn["posterior"].double()
        kept = self.kept[t][:, None, None, None]
        noisy = kept.sqrt() * clean + (1 - kept).sqrt() * eps
        hidden = torch.stack([pictures["hidden"][i] for i in batch]).double()
        hidden[drawn["dropped"]] = pictures["empty"].double()
        answer = torch.func.functional_call(self.unet, self.weights(arrays), (noisy, t, hidden)).sample
        wanted = kept.sqrt() * eps - (1 - kept).sqrt() * clean if self.prediction == "v_prediction" else eps
        snr = (kept / (1 - kept)).flatten()
        error = (answer - wanted) ** 2
        if s["loss"] == "huber":
            sigma = snr**-0.5
            c = {
                "snr": (1 - s["huber_c"]) / (1 + sigma) ** 2 + s["huber_c"],
                "exponential": torch.exp(math.log(s["huber_c"]) * t.double() / 1000),
                "constant": torch.full_like(sigma, s["huber_c"]),
            }[s["huber_schedule"]][:, None, None, None]
            error = 2 * c * ((error + c**2).sqrt() - c)
        if s["masked_loss"]:
            mask = torch.stack([head_weights(pictures["face"], 8, 8)] * len(batch)).double()
            for i in drawn["flipped"].nonzero().flatten().tolist():
                mask[i] = mask[i].flip(-1)
            mask[torch.tensor(batch) >= pictures["images"]] = 1.0
            error = error * mask / mask.mean((1, 2, 3), keepdim=True)
        each = error.mean((1, 2, 3))
        if s["min_snr_gamma"]:
            each = each * torch.clamp(snr, max=s["min_snr_gamma"]) / (snr + (self.prediction == "v_prediction"))
        if s["debiased_estimation"]:
            each = each / torch.clamp(snr, max=1000).sqrt()
        prior = torch.tensor([1.0 if i < pictures["images"] else s["prior_loss_weight"] for i in batch])
        return (each * prior).mean()

    def rate(self, step: int, total: int) -> float:
        s = self.settings
        kind, lr, warm = s["lr_scheduler"], s["learning_rate"], s["lr_warmup_steps"]
        if kind == "constant":
            return lr
        if step < warm:
            return lr * step / warm
        share = (step - warm) / max(1, total - warm)
        match kind:
            case "constant_with_warmup":
                return lr
            case "linear":
                return lr * (1 - share)
            case "cosine":
                return lr * 0.5 * (1 + math.cos(math.pi * share))
            case "cosine_with_restarts":
                return lr * 0.5 * (1 + math.cos(math.pi * (s["lr_scheduler_num_cycles"] * share % 1)))
            case "polynomial":
                return (lr - 1e-7) * (1 - share) ** s["lr_scheduler_power"] + 1e-7

    def step(self, step: int, total: int, batch: list[int], pictures: dict) -> float:
        arrays = [torch.from_numpy(x.copy()).requires_grad_() for x in self.optimizer.x]
        loss = self.loss(arrays, batch, step, pictures)
        gradients = torch.autograd.grad(loss, arrays)
        norm = torch.sqrt(sum((g**2).sum() for g in gradients))
        clipped = [(g * min(1.0, 1 / (norm + 1e-6))).numpy() for g in gradients]
        self.optimizer.step(clipped, self.rate(step, total))
        return float(loss.detach())


def both(folder, base: dict, settings: dict, regularisation: int = 0) -> tuple[list, list, dict, dict]:
    """(losses of the trainer, of the reference, tensors of the trainer's file, of the reference)."""
    dataset, latents = made_up_data(base_width(base), regularisation=regularisation)
    for item in dataset["regularisation"]:
        del item["face"]
    if settings["precision"] == "fp64":
        for tensors in latents.values():
            tensors |= {name: [t.double() for t in tensors[name]] for name in tensors if name != "tokens"}
    run = trained(folder, base, (dataset, latents), settings=settings)
    together = {
        name: latents["images"][name] + latents["regularisation"][name]
        for name in latents["images"]
        if name != "tokens"
    }
    pictures = together | {
        "images": len(dataset["images"]),
        "face": dataset["images"][0]["face"],
        "empty": latents["empty"]["hidden"][0],
    }
    theirs = Reference(base, settings)
    total, course = len(run.metrics), []
    repeats = run_repeats(settings, dataset)
    for epoch in (1, 2):
        for batch in batches(settings, epoch, repeats, *sizes(dataset)):
            course.append(theirs.step(len(course), total, batch, pictures))
    found = safetensors.torch.load_file(run.lora(2))
    expected = dict(zip(theirs.names, map(torch.from_numpy, theirs.optimizer.x), strict=True))
    return [row["loss"] for row in run.metrics], course, found, expected


def run_repeats(settings: dict, dataset: dict) -> int:
    shown = len(dataset["images"]) * (2 if dataset["regularisation"] else 1)
    batch = settings["batch_size"] * settings["gradient_accumulation_steps"]
    return math.ceil(settings["max_train_steps"] * batch / (shown * settings["epochs"]))


def assert_same(losses, expected_losses, tensors, expected) -> None:
    assert len(losses) >= 12
    assert losses == pytest.approx(expected_losses, rel=1e-6)
    for name, tensor in expected.items():
        found = tensors[name].double()
        assert found.dtype == torch.float64
        scale = float(tensor.abs().max())
        assert scale > 0, f"{name} has not moved"
        assert float((found - tensor).abs().max()) <= 1e-6 * scale, name


@pytest.mark.parametrize(
    ("optimizer", "changes"),
    [
        ("AdamW", {"learning_rate": 1e-3}),
        ("Adafactor", {"lr_scheduler": "constant"}),
        ("Lion", {"learning_rate": 1e-4}),
        ("DAdaptAdam", {"learning_rate": 1.0}),
        ("Prodigy", {"learning_rate": 1.0}),
    ],
)
def test_each_optimizer(tmp_path, base_manifest, optimizer, changes):
    assert_same(*both(tmp_path, base_manifest, exact_settings(optimizer=optimizer, **changes)))


@pytest.mark.parametrize(
    "changes",
    [
        {"min_snr_gamma": 5.0},
        {"debiased_estimation": True},
        {"loss": "huber", "huber_schedule": "snr"},
        {"loss": "huber", "huber_schedule": "exponential"},
        {"loss": "huber", "huber_schedule": "constant"},
        {"noise_offset": 0.1, "multires_noise_iterations": 4},
        {"masked_loss": True},
        {"caption_dropout_rate": 0.5},
        {"flip_aug": True, "masked_loss": True},
        {"gradient_accumulation_steps": 3},
        {"gradient_checkpointing": True},
        {"rank": 8, "alpha": 8, "layers": "attention"},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_each_option_of_the_loss(tmp_path, base_manifest, changes):
    assert_same(*both(tmp_path, base_manifest, exact_settings(learning_rate=1e-3, **changes)))


def test_velocity(tmp_path, base_manifest, monkeypatch):
    from diffusers import DDPMScheduler

    velocity = DDPMScheduler.from_pretrained(base_manifest["path"], subfolder="scheduler").config
    monkeypatch.setattr(
        DDPMScheduler,
        "from_pretrained",
        lambda *_, **__: DDPMScheduler.from_config(velocity, prediction_type="v_prediction"),
    )
    assert_same(*both(tmp_path, base_manifest, exact_settings(min_snr_gamma=5.0, learning_rate=1e-3)))


def test_prior_preservation(tmp_path, base_manifest):
    settings = exact_settings(prior_loss_weight=0.3, masked_loss=True, learning_rate=1e-3)
    assert_same(*both(tmp_path, base_manifest, settings, regularisation=3))


@pytest.mark.parametrize(
    "changes",
    [
        {"lr_scheduler": "constant"},
        {"lr_scheduler": "constant_with_warmup", "lr_warmup_steps": 4},
        {"lr_scheduler": "linear"},
        {"lr_scheduler": "cosine", "lr_warmup_steps": 3},
        {"lr_scheduler": "cosine_with_restarts", "lr_scheduler_num_cycles": 4},
        {"lr_scheduler": "polynomial", "lr_scheduler_power": 2.0},
    ],
    ids=lambda changes: changes["lr_scheduler"],
)
def test_each_schedule(tmp_path, base_manifest, changes):
    settings = exact_settings(learning_rate=1e-3, **changes)
    assert_same(*both(tmp_path, base_manifest, settings))


def test_single_precision_stays_close(tmp_path, base_manifest):
    """What users run: the loss's course in fp32, rank-4 LoRA and all, is the formulas' to a few digits less."""
    settings = exact_settings(precision="fp32", save_precision="fp32", learning_rate=1e-3)
    losses, expected, *_ = both(tmp_path, base_manifest, settings)
    assert losses == pytest.approx(expected, rel=1e-4)
    assert np.ptp(losses) > 0
