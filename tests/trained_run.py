"""A short real training on random latents, for tests that need a trained LoRA."""

import json
import signal
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
import torch

from likeness.training import adapters, loop
from likeness.training.latents import latents_bytes
from likeness.training.settings import Settings
from likeness.training.store import RunStore

SHORT = {"rank": 4, "alpha": 2, "max_train_steps": 8, "epochs": 2, "batch_size": 2, "precision": "fp32"}
# Off by default: most tests do not test it, and it takes a third of the time.
SHORT |= {"preserve_class": 0.0}

WIDTH = 32  # the width of the small base model's text encoder


class Run(NamedTuple):
    store: RunStore
    networks: dict
    done: bool
    metrics: list

    def lora(self, epoch: int) -> Path:
        return self.store.epoch_file(epoch)

    def change_of_weights(self) -> dict:
        """{network: {layer: delta W of the LoRA}} of the models in training."""
        return {
            name: {
                module.path: layer.get_delta_weight(adapters.ADAPTER)
                for module, layer in zip(network.modules, network.layers, strict=True)
            }
            for name, network in self.networks.items()
        }


def short_settings(**changes) -> Settings:
    """The settings of a short training, as train_lora passes them."""
    return Settings(**(SHORT | changes)).filled_in()


def made_up_data(width: int, images: int = 5, heldout: int = 2, regularisation: int = 0, side: int = 8):
    """(dataset, latents) in the form of dataset.json and load_latents, from a fixed seed. The pictures have 8 * side px
    and are also cached mirrored."""
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    def words(count: int) -> dict[str, list[torch.Tensor]]:
        return {
            "tokens": [torch.randint(0, 49406, (1, 77), generator=generator) for _ in range(count)],
            "hidden": [drawn(77, width) for _ in range(count)],
        }

    dataset, latents = {"resolution": 8 * side, "folder": "image/1_ohwx woman"}, {}
    for group, count in (("images", images), ("heldout", heldout), ("regularisation", regularisation)):
        letter = group[0] if group != "images" else ""
        dataset[group] = [
            {
                "name": f"{letter}{n:02d}",
                "sha256": f"{group}{n}",
                "caption": f"ohwx woman, word {letter}{n}, light, smile",
                "caption_sha256": f"text{letter}{n}",
                "class_caption": f"a woman, word {letter}{n}, light, smile",
                "class_caption_sha256": f"class{letter}{n}",
                "size": [8 * side, 8 * side],
                "face": [0.5, 0.48, 0.35, 0.45],
            }
            for n in range(count)
        ]
        latents[group] = {
            "mean": [drawn(4, side, side) for _ in range(count)],
            "std": [torch.full((4, side, side), 0.1)] * count,
            "flipped_mean": [drawn(4, side, side) for _ in range(count)],
            "flipped_std": [torch.full((4, side, side), 0.1)] * count,
            **words(count),
        }
    latents["empty"] = {"tokens": [torch.full((1, 77), 49407)], "hidden": [drawn(77, width)]}
    dataset["bare_class"] = {"caption": "photo of a woman", "caption_sha256": "photo of a woman"}
    latents["bare_class"] = words(1)
    latents["images"] |= {f"class_{part}": tensors for part, tensors in words(images).items()}
    return dataset, latents


def trained(folder: Path, base: dict, data=None, report=None, weights=None, settings=None, **changes) -> Run:
    """Train in `folder` until the training is done or stopped."""
    networks, rows = {}, []
    keep = adapters.networks

    def keeping(*arguments):
        networks.update(keep(*arguments))
        return networks

    def note(metrics):
        rows[:] = metrics
        if report:
            report(metrics)

    dataset, latents = data or made_up_data(base_width(base))
    store = RunStore(folder / "store")
    adapters.networks = keeping
    try:
        done = loop.train(
            settings or short_settings(**changes), dataset, latents, base, store, torch.device("cpu"), note, weights
        )
    finally:
        adapters.networks = keep
    return Run(store, networks, done, rows)


def trainers_options(folder: Path, base: dict, dataset: dict, latents: dict, settings: Settings) -> list[str]:
    """The command line of train_lora.py for the arguments of `trained`, with all files in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset.json").write_text(json.dumps(dataset))
    (folder / "base.json").write_text(json.dumps(base, default=str))
    (folder / "latents.safetensors").write_bytes(latents_as_cached(folder, dataset, latents))
    train = settings.model_dump(exclude={"clip_skip"})
    names = {"clip_skip": settings.clip_skip, "subject_name": "ava", "run_name": "portrait"}
    files = {name: f"{name}.json" for name in ("dataset", "base", "models", "settings")}
    files |= {"latents": "latents.safetensors", "cache": "runs", "folder": "models", "metrics": "log/metrics.tsv"}
    options = [word for name, file in files.items() for word in (f"--{name}", str(folder / file))]
    return ["--config", json.dumps(names | {"train": train}), *options]


def latents_as_cached(folder: Path, dataset: dict, latents: dict) -> bytes:
    """Write a latents.safetensors from which load_latents reads `latents`."""
    caption_parts, image_parts = ("tokens", "hidden", "pooled"), ("mean", "std")
    groups = ("images", "heldout", "regularisation")
    items = {item["sha256"]: (group, n) for group in groups for n, item in enumerate(dataset[group])}
    words = {item["caption"]: (*items[item["sha256"]], "") for group in groups for item in dataset[group]}
    words |= {item["class_caption"]: ("images", n, "class_") for n, item in enumerate(dataset["images"])}
    words |= {"": ("empty", 0, ""), dataset["bare_class"]["caption"]: ("bare_class", 0, "")}

    def saved(group: str, n: int, prefix: str, parts: tuple[str, ...]) -> Path:
        tensors = {p: latents[group][prefix + p][n].contiguous() for p in parts if prefix + p in latents[group]}
        safetensors.torch.save_file(tensors, folder / "part.safetensors")
        return folder / "part.safetensors"

    return latents_bytes(
        dataset,
        True,
        lambda item, mirrored: saved(*items[item["sha256"]], "flipped_" if mirrored else "", image_parts),
        lambda caption, _: saved(*words[caption], caption_parts),
    )


def base_width(base: dict) -> int:
    from likeness.models.base_model import load_part

    return load_part(base, "text_encoder").config.hidden_size


def predicted(unet) -> torch.Tensor:
    """The prediction of the small base model's U-Net for fixed noisy_latents."""
    generator = torch.Generator().manual_seed(3)
    noisy, hidden = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 77, 32, generator=generator)
    with torch.no_grad():
        return unet(noisy, torch.tensor([50, 800]), hidden).sample


def default_signals() -> None:
    """Restore the default handlers of signals, as in a new process."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGURG):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def loras(run: Run) -> list[bytes]:
    """The LoRA files of all saved epochs, in the order of epochs."""
    return [path.read_bytes() for path in sorted(run.store.folder.glob("epoch-*.safetensors"))]


def assert_the_states_are_finite(folder: Path, step: int) -> None:
    state = RunStore(folder / "store", exclusive=False).load_state()
    assert state["step"] == step
    assert all(torch.isfinite(tensor).all() for tensor in [*state["parameters"], *(state["average"] or [])])
