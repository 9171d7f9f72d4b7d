"""A short real training on made-up latents, for the tests that need a trained LoRA."""

from pathlib import Path
from typing import NamedTuple

import torch

from likeness.config import Train
from likeness.training import adapters, loop
from likeness.training.store import RunStore

SHORT = {"rank": 4, "alpha": 2, "max_train_steps": 8, "epochs": 2, "batch_size": 2, "precision": "fp32"}


class Run(NamedTuple):
    store: RunStore
    networks: dict
    done: bool
    metrics: list

    def lora(self, epoch: int) -> Path:
        return self.store.epoch_file(epoch)

    def change_of_weights(self) -> dict:
        """network -> layer -> the LoRA's delta W, of the models in training."""
        return {
            name: {
                module.path: layer.get_delta_weight(adapters.ADAPTER)
                for module, layer in zip(network.modules, network.layers, strict=True)
            }
            for name, network in self.networks.items()
        }


def made_up_latents(images: int, width: int, side: int = 8) -> tuple[list[dict], dict[str, torch.Tensor]]:
    """(items, latents) as dataset.json and load_latents give them, from a fixed seed."""
    generator = torch.Generator().manual_seed(0)
    items = [{"name": f"{n:02d}", "sha256": f"image{n}", "caption_sha256": f"text{n}"} for n in range(images)]
    latents = {
        "mean": torch.randn(images, 4, side, side, generator=generator),
        "std": torch.full((images, 4, side, side), 0.1),
        "tokens": torch.randint(0, 49406, (images, 1, 77), generator=generator),
        "hidden": torch.randn(images, 77, width, generator=generator),
        "empty_tokens": torch.full((1, 77), 49407),
        "empty_hidden": torch.randn(77, width, generator=generator),
    }
    return items, latents


def trained(folder: Path, base: dict, latents=None, report=None, **settings) -> Run:
    """Train in `folder` until done or stopped."""
    networks, rows = {}, []
    keep = adapters.networks

    def keeping(*arguments):
        networks.update(keep(*arguments))
        return networks

    def note(metrics):
        rows[:] = metrics
        if report:
            report(metrics)

    items, made = made_up_latents(5, base_width(base))
    store = RunStore(folder / "store")
    train = Train(**(SHORT | settings)).model_dump() | {"clip_skip": 1}
    adapters.networks = keeping
    try:
        done = loop.train(train, items, latents or made, base, store, torch.device("cpu"), note)
    finally:
        adapters.networks = keep
    return Run(store, networks, done, rows)


def base_width(base: dict) -> int:
    from likeness.base_model import load_part

    return load_part(base, "text_encoder").config.hidden_size
