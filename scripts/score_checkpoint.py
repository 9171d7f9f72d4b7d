"""Measure the samples of a run and the person's photos, and write one row of scores per sample."""

from argparse import Namespace
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from likeness.choosing import scoring
from likeness.choosing.recognisers import Recognisers, measurement_cache
from likeness.core import cli
from likeness.core.devices import claim_gpu, torch_device
from likeness.core.files import ItemCache
from likeness.core.manifests import checked_files, read_table, write_table
from likeness.core.provenance import file_sha256
from likeness.drawing.samples import read_samples
from likeness.faces.identity import decode_embedding, encode_embedding
from likeness.models import clip, pretrained
from likeness.models.prompts import drawn_words
from likeness.photos.images import read_photo


def main() -> None:
    args = cli.arguments(__doc__, "samples*", "crops", "strangers*", "models", "clip*", "cache", "scores")
    items = measurement_cache(args.cache, args.models, __file__)
    recognisers = Recognisers(args.models)

    def measured(path: Path, content: str) -> scoring.Measurement:
        def item() -> bytes:
            return scoring.measurement_bytes(scoring.measure(read_photo(path), *recognisers.all))

        return scoring.read_measurement(items.get(item, content))

    samples, crops = read_samples(args.samples), read_table(args.crops)
    crops["image"] = checked_files(args.crops.parent, crops["crop"], crops["sha256"], "crop_faces")
    drawn = cli.progress(samples.itertuples(), total=len(samples), desc="scores", unit="picture")
    rows = scoring.score_rows(
        samples,
        # By the hash of the pixels: a picture with another name of its LoRA in the metadata is not measured again.
        [measured(Path(sample.image), sample.pixels) for sample in drawn],
        train=[measured(Path(crop.image), crop.sha256) for crop in crops[crops["fate"] == "train"].itertuples()],
        heldout=[measured(Path(crop.image), crop.sha256) for crop in crops[crops["fate"] == "heldout"].itertuples()],
        strangers=[measured(path, file_sha256(path)) for path in sorted(args.strangers)],
        copy_limit=args.config.select.copy_limit,
        leak_limit=args.config.select.leak_limit,
        folder=args.scores.parent,
        clip=_clip_view(samples, args, items) if args.clip else None,
    )
    write_table(args.scores, rows, scoring.COLUMNS)
    first = rows[0]
    cli.say(
        f"identity: 0 is a similarity of {first['floor']:.3f} (from {first['floor_from']}), "
        f"1 is {first['ceiling']:.3f} (training photos to held-out ones)"
    )
    cli.say(items.summary())


def _clip_view(samples: pd.DataFrame, args: Namespace, items: ItemCache) -> scoring.ClipView:
    """CLIP's embeddings of the pictures and the prompts. CLIP does not know the trigger, so it is removed from the
    prompts."""
    subject = args.config.subject
    _, weights = pretrained.read_manifest(args.clip[0])

    @cache
    def model() -> clip.Clip:
        claim_gpu(cli.say)
        return clip.load_clip(pretrained.verified_folder(args.clip[0]), torch_device())

    def embedded(compute: Callable[[], np.ndarray], content: str) -> np.ndarray:
        item = items.get(lambda: encode_embedding(compute()).encode(), "clip", weights, content)
        return decode_embedding(item.read_text())

    def of_picture(sample: Mapping[str, Any]) -> np.ndarray:
        return embedded(lambda: model().of_picture(read_photo(Path(sample["image"]))), sample["pixels"])

    def of_prompt(prompt: str) -> np.ndarray:
        words = drawn_words(prompt).replace(f"{subject.trigger} {subject.class_noun}", subject.class_noun)
        return embedded(lambda: model().of_words(words), words)

    pictures = cli.progress(samples.to_dict("records"), desc="clip", unit="picture")
    return scoring.ClipView([of_picture(s) for s in pictures], {p: of_prompt(p) for p in samples["prompt"].unique()})


if __name__ == "__main__":
    cli.run(main)
