"""Train the LoRA and write one checkpoint per saved epoch. A killed training resumes from its last saved state.

If `train.gpus` is above 1, the program starts itself again for each further GPU. Every process trains a share of each
batch, and the first one writes the files.
"""

import argparse
import json
import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from likeness.core import cli
from likeness.core.devices import claim_gpu, is_emulated, torch_device
from likeness.core.errors import LikenessError
from likeness.core.files import publish_folder, write_atomic
from likeness.core.manifests import read_json, seal, write_json
from likeness.core.provenance import code_digest, file_sha256
from likeness.core.tensors import read_metadata, with_metadata
from likeness.models.base_model import load_manifest
from likeness.training.launch import INTERRUPTED, start_others
from likeness.training.metadata import lora_metadata
from likeness.training.plan import run_key
from likeness.training.schedule import arithmetic, saved_epochs, schedule, sizes
from likeness.training.settings import Settings
from likeness.training.store import RunStore

FIRST = "RANK" not in os.environ  # launch.start_others sets RANK for the further processes


def main() -> None:
    names = ("dataset", "latents", "base", "weights*", "cache", "models", "folder", "metrics", "settings")
    args = cli.arguments(__doc__, *names)
    settings = Settings(**cli.as_mappings(args.config.train), clip_skip=args.config.clip_skip)
    name = f"{args.config.subject_name}_{args.config.run_name}"
    dataset, base = read_json(args.dataset), load_manifest(args.base)
    refuse_missing_captions(dataset)
    steps = schedule(settings, *sizes(dataset))
    saved = saved_epochs(steps.epochs, settings.save_every_n_epochs)
    if FIRST:
        announce(name, settings, dataset, base)

    weights = args.weights[0] if args.weights else None
    key = run_key(settings, dataset, base, file_sha256(weights) if weights else "", code_digest(Path(__file__)))
    store = RunStore(args.cache / key, cli.say, exclusive=FIRST)
    before = sum(store.has_epoch(n) for n in saved)
    train_in_store(args, settings, dataset, base, store, saved, weights)
    if not FIRST:
        return
    # If another job of this run lost its lock, Snakemake has deleted the metrics with that job.
    if args.metrics.is_file():
        seal(args.metrics)

    # The run's name is not in the store but added here, so that a renamed run is not trained again.
    metadata = lora_metadata(name, settings, steps, dataset, base)
    loras = {
        f"{name}-{n:06d}.safetensors": described(store.epoch_file(n), metadata, n, steps.steps_per_epoch) for n in saved
    }
    publish_folder(args.folder, loras)
    epochs = [
        {"epoch": n, "file": f"{args.folder.name}/{file}", "sha256": file_sha256(args.folder / file)}
        for n, file in zip(saved, loras, strict=True)
    ]
    write_atomic(args.settings, json.dumps(vars(args.config), default=vars, indent=1, sort_keys=True) + "\n")
    write_json(args.models, {"run": key, **steps._asdict(), "epochs": epochs}, indent=1)
    cli.say(f"items: {len(saved) - before} computed, {before} reused")


def train_in_store(
    args: argparse.Namespace,
    settings: Settings,
    dataset: dict[str, Any],
    base: dict[str, Any],
    store: RunStore,
    saved: list[int],
    weights: Path | None,
) -> None:
    """Train the missing epochs. If the store has all epochs, only write the metrics. Exits with INTERRUPTED if a signal
    stopped the training."""
    finished = FIRST and store.has_all_epochs(saved)
    if FIRST and not finished:
        if settings.device != "cpu":
            claim_gpu(cli.say, settings.gpus)
        if settings.gpus > 1:
            start_others(settings.gpus)
    from likeness.training.metrics import MetricsLog, comparable

    with MetricsLog(args.metrics) if FIRST else nullcontext() as log:
        report = log.write if log else lambda rows: None
        if finished:
            report(comparable(store.measured(saved[-1]), dataset["heldout"], cli.say))
            return
        from likeness.training import loop
        from likeness.training.latents import load_latents

        latents, device = load_latents(args.latents, dataset, settings.max_token_length), torch_device(settings.device)
        if FIRST and is_emulated(settings.precision, device):
            cli.say(
                f"precision {settings.precision}: this CPU has no instructions for it, so each step takes many "
                "times as long as with train.precision: fp32"
            )
        if not loop.train(settings, dataset, latents, base, store, device, report, weights):
            sys.exit(INTERRUPTED)


def described(lora: Path, metadata: dict[str, str], epoch: int, steps_per_epoch: int) -> bytes:
    """The content of an epoch's LoRA file with added metadata. The tensors are not changed."""
    data = lora.read_bytes()
    progress = {"ss_epoch": str(epoch), "ss_steps": str(epoch * steps_per_epoch)}
    return with_metadata(data, read_metadata(data) | metadata | progress)


def refuse_missing_captions(dataset: dict[str, Any]) -> None:
    """Raises LikenessError if a picture has no caption. Everything that a caption does not name would be learned as a
    part of the person."""
    missing = [item["name"] for item in dataset["images"] if not item["caption"].strip()]
    if missing:
        raise LikenessError(
            f"no caption for {', '.join(missing)}; write a .txt beside the photo, or delete the empty one"
        )


def announce(name: str, settings: Settings, dataset: dict[str, Any], base: dict[str, Any]) -> None:
    """Print all settings and the calculation of the steps, before the models are loaded."""
    cli.say(f"training {name} on {base['model']} ({base['family']}, {base['prediction_type']})")
    for key, value in sorted(settings.model_dump().items()):
        cli.say(f"  {key}: {value:g}" if isinstance(value, float) else f"  {key}: {value}")
    cli.say(arithmetic(settings, *sizes(dataset)))


if __name__ == "__main__":
    cli.run(main)
