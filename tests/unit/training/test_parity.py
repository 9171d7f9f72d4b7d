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
from likeness.models import lora_file
from likeness.training import adapters, noise
from likeness.training.losses import head_weights
from likeness.training.plan import batches
from likeness.training.schedule import sizes
from likeness.training.settings import Settings
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


def exact_settings(**changes) -> Settings:
    precise = {key: changes.pop(key) for key in ("precision", "save_precision") if key in changes}
    settings = short_settings(max_train_steps=12, epochs=2, **changes)
    return settings.model_copy(update=EXACT | precise)


class Reference:
    """The LoRA as pairs of arrays beside the weights of a frozen U-Net."""

    def __init__(self, base: dict, settings: Settings):
        from diffusers import DDPMScheduler, UNet2DConditionModel

        where = {"pretrained_model_name_or_path": base["path"]}
        self.settings = settings
        self.unet = UNet2DConditionModel.from_pretrained(**where, subfolder="unet").double().requires_grad_(False)
        schedule = DDPMScheduler.from_pretrained(**where, subfolder="scheduler")
        self.kept, self.prediction = schedule.alphas_cumprod.double(), schedule.config.prediction_type
        # The same start: down as kaiming-uniform draws it (checked in test_adapters), up at zero.
        torch.manual_seed(settings.seed)
        start = adapters.networks(settings, base, torch.device("cpu"))["unet"]
        self.modules = start.modules
        tensors = start.tensors()
        names = [f"{m.key}.lora_{way}.weight" for m in self.modules for way in ("down", "up")]
        self.optimizer = OPTIMIZERS[settings.optimizer]([tensors[name].double().numpy() for name in names])
        self.names = names

    def weights(self, arrays: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        """Every adapted layer's weight plus alpha / rank times up @ down."""
        scale = self.settings.alpha / self.settings.rank
        found = {}
        for module, down, up in zip(self.modules, arrays[::2], arrays[1::2], strict=True):
            weight = self.unet.get_parameter(f"{module.path}.weight")
            change = up.flatten(1) @ down.flatten(1)
            found[f"{module.path}.weight"] = weight + scale * change.view_as(weight)
        return found

    def loss(
        self, arrays: list[torch.Tensor], batch: list[int], step: int, pictures: dict
    ) -> tuple[torch.Tensor, dict]:
        """What is differentiated, and its parts as the metrics have them."""
        s, shape = self.settings, (len(batch), *pictures["mean"][0].shape)
        drawn = noise.sample(s, step, shape, 1000)
        t, eps = drawn["timesteps"], drawn["noise"].double()
        mean, std = (torch.stack([pictures[name][i] for i in batch]).double() for name in ("mean", "std"))
        if s.flip_aug:
            for i in drawn["flipped"].nonzero().flatten().tolist():
                mean[i], std[i] = pictures["flipped_mean"][batch[i]], pictures["flipped_std"][batch[i]]
        clean = mean + std * drawn["posterior"].double()
        kept = self.kept[t][:, None, None, None]
        noisy = kept.sqrt() * clean + (1 - kept).sqrt() * eps
        hidden = torch.stack([pictures["hidden"][i] for i in batch]).double()
        hidden[drawn["dropped"]] = pictures["empty"].double()
        answer = torch.func.functional_call(self.unet, self.weights(arrays), (noisy, t, hidden)).sample
        wanted = kept.sqrt() * eps - (1 - kept).sqrt() * clean if self.prediction == "v_prediction" else eps
        base_answer = self.unet(noisy, t, hidden).sample
        is_prior = torch.tensor(batch) >= pictures["images"]
        if s.prior_prediction:
            wanted = torch.where(is_prior[:, None, None, None], base_answer, wanted)
        snr = (kept / (1 - kept)).flatten()
        base_error = (base_answer - wanted) ** 2
        error = (answer - wanted) ** 2
        if s.loss == "huber":
            sigma = snr**-0.5
            c = {
                "snr": (1 - s.huber_c) / (1 + sigma) ** 2 + s.huber_c,
                "exponential": torch.exp(math.log(s.huber_c) * t.double() / 1000),
                "constant": torch.full_like(sigma, s.huber_c),
            }[s.huber_schedule][:, None, None, None]
            error = 2 * c * ((error + c**2).sqrt() - c)
        if s.masked_loss:
            mask = torch.stack([head_weights(pictures["face"], 8, 8)] * len(batch)).double()
            for i in drawn["flipped"].nonzero().flatten().tolist():
                mask[i] = mask[i].flip(-1)
            mask[is_prior] = 1.0
            error = error * mask / mask.mean((1, 2, 3), keepdim=True)
            outside = torch.where(is_prior[:, None, None, None], 0.0, 1 - mask)
            outside[~is_prior] /= outside[~is_prior].mean((1, 2, 3), keepdim=True)
            error = error + s.masked_prior * outside * (answer - base_answer) ** 2
        each = error.mean((1, 2, 3))
        if s.dco_beta:
            b, gain = s.dco_beta, base_error.mean((1, 2, 3)) - each
            each = -2 / b * torch.log(torch.sigmoid(b * gain))
        if s.min_snr_gamma:
            each = each * torch.clamp(snr, max=s.min_snr_gamma) / (snr + (self.prediction == "v_prediction"))
        if s.debiased_estimation:
            each = each / torch.clamp(snr, max=1000).sqrt()
        loss = (each * torch.where(is_prior, s.prior_loss_weight, 1.0)).mean()
        preservation = self.preservation(arrays, batch, noisy, drawn, pictures)
        if preservation is None:
            return loss, {"loss": float(loss.detach()), "preservation": ""}
        total = loss + s.preserve_class * preservation.sum() / (s.preserve_class_share * len(batch))
        return total, {"loss": float(loss.detach()), "preservation": float(preservation.mean().detach())}

    def preservation(self, arrays, batch: list[int], noisy: torch.Tensor, drawn: dict, pictures: dict):
        """mean (e_L(x_t, c') - e_B(x_t, c'))^2 of every picture that the class is preserved on; None without any."""
        places = [p for p in drawn["preserved"].nonzero().flatten().tolist() if batch[p] < pictures["images"]]
        if not places:
            return None
        texts = [(pictures["class_hidden"][batch[p]], pictures["bare_class"], pictures["empty"]) for p in places]
        kinds = drawn["class_words"][places].tolist()
        hidden = torch.stack([text[kind] for text, kind in zip(texts, kinds, strict=True)]).double()
        shown = noisy[places], drawn["timesteps"][places], hidden
        taught = torch.func.functional_call(self.unet, self.weights(arrays), shown).sample
        return ((taught - self.unet(*shown).sample) ** 2).mean((1, 2, 3))

    def rate(self, step: int, total: int) -> float:
        s = self.settings
        kind, lr, warm = s.lr_scheduler, s.learning_rate, s.lr_warmup_steps
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
                return lr * 0.5 * (1 + math.cos(math.pi * (s.lr_scheduler_num_cycles * share % 1)))
            case "polynomial":
                return (lr - 1e-7) * (1 - share) ** s.lr_scheduler_power + 1e-7

    def step(self, step: int, total: int, batch: list[int], pictures: dict) -> dict:
        arrays = [torch.from_numpy(x.copy()).requires_grad_() for x in self.optimizer.x]
        loss, parts = self.loss(arrays, batch, step, pictures)
        gradients = torch.autograd.grad(loss, arrays)
        norm = torch.sqrt(sum((g**2).sum() for g in gradients))
        clipped = [(g * min(1.0, 1 / (norm + 1e-6))).numpy() for g in gradients]
        rate, ratio = self.rate(step, total), self.settings.loraplus_lr_ratio
        # Names are in pairs, down and up.
        self.optimizer.step(clipped, rate if ratio == 1 else [rate, ratio * rate] * len(self.modules))
        return parts


def both(folder, base: dict, settings: Settings, regularisation: int = 0) -> tuple[list, list, dict, dict]:
    """(losses of the trainer, of the reference, tensors of the trainer's file, of the reference). A step's losses are
    the mean of the pictures' and, where the class is preserved on some, its preservation."""
    dataset, latents = made_up_data(base_width(base), regularisation=regularisation)
    for item in dataset["regularisation"]:
        del item["face"]
    if settings.precision == "fp64":
        for tensors in latents.values():
            tensors |= {name: [t.double() for t in tensors[name]] for name in tensors if not name.endswith("tokens")}
    run = trained(folder, base, (dataset, latents), settings=settings)
    together = {
        name: latents["images"][name] + latents["regularisation"].get(name, [])
        for name in latents["images"]
        if not name.endswith("tokens")
    }
    pictures = together | {
        "images": len(dataset["images"]),
        "face": dataset["images"][0]["face"],
        "empty": latents["empty"]["hidden"][0],
        "bare_class": latents["bare_class"]["hidden"][0],
    }
    theirs = Reference(base, settings)
    total, course = len(run.metrics), []
    repeats = run_repeats(settings, dataset)
    for epoch in (1, 2):
        for batch in batches(settings, epoch, repeats, *sizes(dataset)):
            course.append(theirs.step(len(course), total, batch, pictures))
    found = safetensors.torch.load_file(run.lora(2))
    expected = dict(zip(theirs.names, map(torch.from_numpy, theirs.optimizer.x), strict=True))
    losses = [{name: row[name] for name in ("loss", "preservation")} for row in run.metrics]
    return losses, course, found, expected


def run_repeats(settings: Settings, dataset: dict) -> int:
    shown = len(dataset["images"]) * (2 if dataset["regularisation"] else 1)
    batch = settings.batch_size * settings.gradient_accumulation_steps
    return math.ceil(settings.max_train_steps * batch / (shown * settings.epochs))


def assert_same(losses, expected_losses, tensors, expected) -> None:
    assert len(losses) >= 12
    assert_same_losses(losses, expected_losses, rel=1e-6)
    for name, tensor in expected.items():
        found = tensors[name].double()
        assert found.dtype == torch.float64
        scale = float(tensor.abs().max())
        assert scale > 0, f"{name} has not moved"
        assert float((found - tensor).abs().max()) <= 1e-6 * scale, name


def assert_same_losses(losses: list[dict], expected: list[dict], rel: float) -> None:
    for found, wanted in zip(losses, expected, strict=True):
        measured = {name: value for name, value in found.items() if value != ""}
        assert measured == pytest.approx({name: value for name, value in wanted.items() if value != ""}, rel=rel)


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
        {"masked_loss": True, "masked_prior": 0.5},
        {"dco_beta": 1000.0},
        {"timestep_sampling": "sigmoid"},
        {"caption_dropout_rate": 0.5},
        {"flip_aug": True, "masked_loss": True},
        {"gradient_accumulation_steps": 3},
        {"gradient_checkpointing": True},
        {"rank": 8, "alpha": 8, "layers": "attention"},
        {"loraplus_lr_ratio": 4.0},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_each_option_of_the_loss(tmp_path, base_manifest, changes):
    assert_same(*both(tmp_path, base_manifest, exact_settings(learning_rate=1e-3, **changes)))


@pytest.fixture
def velocity_manifest(base_manifest, monkeypatch) -> dict:
    from diffusers import DDPMScheduler

    velocity = DDPMScheduler.from_pretrained(base_manifest["path"], subfolder="scheduler").config
    monkeypatch.setattr(
        DDPMScheduler,
        "from_pretrained",
        lambda *_, **__: DDPMScheduler.from_config(velocity, prediction_type="v_prediction"),
    )
    return base_manifest


def test_velocity(tmp_path, velocity_manifest):
    assert_same(*both(tmp_path, velocity_manifest, exact_settings(min_snr_gamma=5.0, learning_rate=1e-3)))


@pytest.mark.parametrize(
    "changes",
    [
        {"preserve_class": 2.0},
        {"preserve_class": 0.5, "preserve_class_share": 1.0, "min_snr_gamma": 5.0},
        {"preserve_class": 2.0, "batch_size": 1},
        {"preserve_class": 2.0, "gradient_accumulation_steps": 3, "caption_dropout_rate": 0.5},
        {"preserve_class": 2.0, "gradient_checkpointing": True},
    ],
    ids=lambda changes: "-".join(f"{name}={value}" for name, value in changes.items()),
)
def test_class_preservation(tmp_path, base_manifest, changes):
    losses, *rest = both(tmp_path, base_manifest, exact_settings(learning_rate=1e-3, **changes))
    assert_same(losses, *rest)
    measured = [parts["preservation"] for parts in losses]
    if changes.get("batch_size") == 1:
        assert {value == "" for value in measured} == {True, False}
    else:
        numbers = [value for value in measured if value != ""]  # an epoch's last step may have one picture
        assert numbers[0] < 1e-20 < numbers[-1], "at first the LoRA changes nothing"


def test_class_preservation_of_velocity(tmp_path, velocity_manifest):
    assert_same(*both(tmp_path, velocity_manifest, exact_settings(preserve_class=2.0, learning_rate=1e-3)))


@pytest.mark.parametrize("changes", [{}, {"prior_prediction": True}], ids=["photos", "base's answers"])
def test_prior_preservation(tmp_path, base_manifest, changes):
    settings = exact_settings(
        prior_loss_weight=0.3, masked_loss=True, preserve_class=1.0, learning_rate=1e-3, batch_size=3, **changes
    )
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
    assert_same_losses(losses, expected, rel=1e-4)
    assert np.ptp([parts["loss"] for parts in losses]) > 0
