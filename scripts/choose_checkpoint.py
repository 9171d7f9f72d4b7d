"""Choose an epoch and a weight by the scores, and write best/: the LoRA, its A1111 sidecar, a preview and a card."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from likeness.choosing import best, scoring, selection
from likeness.choosing.choice import advice, separation
from likeness.choosing.scores import read_scores
from likeness.core import cli
from likeness.core.files import write_atomic
from likeness.core.manifests import read_json, read_table, write_json
from likeness.core.provenance import file_sha256
from likeness.training.checkpoints import checkpoint_file

INPUTS = ("scores", "models", "base", "drawing_base", "dataset", "crops", "measured_by")
OUTPUTS = ("choice", "lora", "sidecar", "preview", "card")


def main() -> None:
    args = cli.arguments(__doc__, *INPUTS, *OUTPUTS)
    config = args.config
    scores = read_scores(args.scores)
    select = {key: getattr(config.select, key) for key in ("beta", "bootstrap", "confidence", "seed")}
    by_hand = (config.by_hand.epoch, config.by_hand.weight) if config.by_hand else None
    choice = selection.choose(scores, **select, by_hand=by_hand)
    source = checkpoint_file(args.models, choice["epoch"])
    choice |= {"lora": args.lora.name, "sha256": file_sha256(source)}
    choice |= {"clip": config.select.clip, "leak_limit": config.select.leak_limit}

    base, drawing_base = read_json(args.base), read_json(args.drawing_base)
    dataset, measured_by = read_json(args.dataset), read_json(args.measured_by)
    choice |= {"trained_on": _known_by(base), "drawn_with": _known_by(drawing_base)}
    preview = best.preview_png(scores, choice)
    choice |= {"preview": args.preview.name, "preview_sha256": hashlib.sha256(preview).hexdigest()}
    sidecar = _json(best.sidecar(choice, vars(config.subject), base["family"]))
    card = best.model_card(
        choice,
        name=f"{config.subject_name}, {config.run_name}",
        subject=vars(config.subject),
        train=cli.as_mappings(config.train),
        sample=cli.as_mappings(config.sample),
        select=cli.as_mappings(config.select),
        base=base,
        drawing_base=drawing_base,
        dataset=dataset,
        hashes={
            args.lora.name: choice["sha256"],
            args.sidecar.name: hashlib.sha256(sidecar.encode()).hexdigest(),
            args.preview.name: choice["preview_sha256"],
            "dataset.json": file_sha256(args.dataset),
            "scores.tsv": file_sha256(args.scores),
            **{name: measured_by[name] for name in scoring.MODELS},
            **best.judging_hashes(scores, choice, read_table(args.crops)),
        },
    )
    write_atomic(args.lora, source.read_bytes())
    write_atomic(args.preview, preview)
    write_atomic(args.sidecar, sidecar)
    write_atomic(args.card, card)
    write_json(args.choice, choice, indent=2, ensure_ascii=False)
    sentences = *advice(choice), separation(choice, vars(config.subject))
    cli.say(" ".join(f"{sentence.rstrip('.')}." for sentence in sentences))


def _known_by(base: Mapping[str, Any]) -> dict[str, str]:
    """What tells a base model from others: its name and its digest."""
    return {key: base[key] for key in ("model", "digest")}


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    cli.run(main)
