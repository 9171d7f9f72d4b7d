"""The page of a data set, also as a part of the report: the fate of every photo, and the poses and the light that the
photos cover."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from likeness.core import cli
from likeness.core.files import ItemCache
from likeness.core.manifests import checked, read_json, read_table
from likeness.faces import curation, photo_advice
from likeness.faces.crops import ALLOWED_PADDING
from likeness.report.coverage import light_charts, pose_chart
from likeness.report.page import rendered
from likeness.report.thumbnails import crop_uri, enlarged_uri, photo_uri

FATES = {"train": "to train on", "heldout": "held out", "dropped": "dropped"}
CAPTIONED = {
    "user": "your caption",
    "template": "caption by template",
    "blip": "caption by BLIP",
    "florence2": "caption by Florence-2",
}
OPEN_UP_TO = 60  # photos; with more the groups are closed first, so that the page gives an overview


def dataset_html(
    photos: Path,
    crops: Path,
    upscaled: Path,
    captions: Path,
    dataset: Path,
    *,
    subject: str,
    thumbnails: ItemCache,
    threads: int,
) -> str:
    """The text of the page of a data set alone. The manifests are those of results/{subject}. The text depends only on
    these files."""
    return rendered(
        "dataset.html.j2",
        title=f"{subject}: the photos",
        subject=subject,
        dataset=dataset_part(photos, crops, upscaled, captions, dataset, thumbnails, threads),
    )


def dataset_part(
    photos: Path,
    crops: Path,
    upscaled: Path,
    captions: Path,
    dataset: Path,
    thumbnails: ItemCache,
    threads: int,
) -> dict[str, Any]:
    """The data of _dataset.html.j2: {counts, filters, advice, captions, pose, lights, groups, open, arithmetic}.

    Each photo is a card. The groups are the photos to train on, the held-out ones, and the dropped ones with a part for
    each reason. `captions` are the user's captions that are not used. `thumbnails` comes from
    likeness.report.thumbnails.thumbnail_cache.
    """
    rows = read_table(photos).to_dict("records")
    stages = [
        {row["photo"]: row | {"folder": table.parent} for row in read_table(table).to_dict("records")}
        for table in (crops, upscaled, captions)
    ]

    def make_card(row: Mapping[str, Any]) -> dict[str, Any]:
        crop, *later = (stage.get(row["photo"]) for stage in stages)
        if crop:
            checked(crop["folder"] / crop["crop"], crop["sha256"], "crop_faces")
        # Held-out photos are only measured, so their cards show the crop and no training image.
        upscale, caption = later if row["fate"] == "train" else (None, None)
        if upscale:
            checked(upscale["folder"] / upscale["image"], upscale["sha256"], "upscale_faces")
        return _card({**row, "folder": photos.parent}, crop, upscale, caption, thumbnails)

    cards = [card for _, card in cli.map_in_threads(make_card, rows, threads, desc="pictures", unit="photo")]
    kept = [row | {"name": Path(row["photo"]).name} for row in rows if row["fate"] != "dropped"]
    return {
        "counts": _counts(rows),
        "filters": _filters(cards),
        "advice": photo_advice.advice(rows),
        "captions": [
            {"name": Path(row["caption"]).name, "why": row["detail"]}
            for row in read_table(captions).to_dict("records")
            if row["fate"] == "not read"
        ],
        "pose": pose_chart(kept),
        "lights": light_charts(kept),
        "groups": _groups(cards),
        "open": len(cards) <= OPEN_UP_TO,
        "arithmetic": read_json(dataset)["arithmetic"],
    }


def _counts(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    counts = Counter(row["fate"] for row in rows)
    return [{"fate": fate, "label": label, "count": counts[fate]} for fate, label in FATES.items()]


def _filters(cards: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """[{tag, label, count}] of the filters for the cards, without those that match no card."""
    labels = FATES | {reason: reason.replace("_", " ") for reason in curation.REASONS}
    labels |= {"enlarged": "enlarged by Real-ESRGAN", "padded": "with mirrored edges", "warned": "with a warning"}
    counts = Counter(tag for card in cards for tag in card["tags"])
    return [{"tag": tag, "label": label, "count": counts[tag]} for tag, label in labels.items() if counts[tag]]


def _groups(cards: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """[{fate, title, about, count, parts: [{reason, cards}]}], without empty groups and parts."""
    titles = {
        "train": ("To train on", "Each with its crop brought to the training resolution, and its caption."),
        "heldout": (
            "Held out",
            "Training never sees these: the checkpoints are judged by their likeness to them.",
        ),
        "dropped": ("Dropped", "Not used at all."),
    }
    groups = []
    for fate, (title, about) in titles.items():
        own = [card for card in cards if card["fate"] == fate]
        by_reason = {reason: [card for card in own if card["reason"] == reason] for reason in ["", *curation.REASONS]}
        parts = [
            {"reason": reason.replace("_", " "), "cards": members} for reason, members in by_reason.items() if members
        ]
        if parts:
            groups.append({"fate": fate, "title": title, "about": about, "count": len(own), "parts": parts})
    return groups


def _card(
    photo: Mapping[str, Any],
    crop: Mapping[str, Any] | None,
    upscale: Mapping[str, Any] | None,
    caption: Mapping[str, Any] | None,
    thumbnails: ItemCache,
) -> dict[str, Any]:
    """The card of a photo, with its fate and its pictures. The rows are those of the four tables, each with the folder
    of its table."""
    name = Path(photo["photo"]).name
    padded = float(crop["padded"]) if crop else 0.0
    enlarged = upscale is not None and upscale["method"] == "realesrgan"
    warnings = [row["detail"] for row in (upscale, caption) if row and row["detail"]]
    tags = {"enlarged": enlarged, "padded": padded > ALLOWED_PADDING, "warned": bool(warnings)}
    if tags["padded"]:
        warnings.append(f"{max(padded, 0.01):.0%} of the crop lies beyond the photo's edge and is mirrored")
    boxes = _boxes(photo)
    return {
        "name": name,
        "fate": photo["fate"],
        "reason": photo["reason"],
        "detail": photo["detail"],
        "tags": [tag for tag in (photo["fate"], photo["reason"]) if tag] + [tag for tag, true in tags.items() if true],
        "width": photo["width"],
        "height": photo["height"],
        "boxes": boxes,
        "thumbnail": photo_uri(photo["folder"] / photo["photo"], photo["sha256"], thumbnails),
        "alt": f"{name}, with {_number(len(boxes), 'face')} framed" if boxes else name,
        "crop": crop_uri(crop["folder"] / crop["crop"]) if crop and not upscale else None,
        "before": enlarged_uri(crop["folder"] / crop["crop"]) if crop and enlarged else None,
        "image": crop_uri(upscale["folder"] / upscale["image"]) if upscale else None,
        "facts": _facts(photo, crop, upscale, caption),
        "warnings": warnings,
        "caption": caption and caption["text"],
    }


def _boxes(photo: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The boxes of the faces in a photo, in px: the subject's and others'. If the photo was dropped as one of another
    person, or because it is not clear who the subject is, all are others'."""
    face = [[float(photo[key]) for key in "xywh"]] if photo["x"] else []
    others = json.loads(photo["others"] or "[]")
    unknown = photo["reason"] in ("other_person", "several_faces")
    kinds = [("other" if unknown else "subject", box) for box in face] + [("other", box) for box in others]
    return [dict(zip("xywh", box, strict=True)) | {"kind": kind} for kind, box in kinds]


def _facts(
    photo: Mapping[str, Any],
    crop: Mapping[str, Any] | None,
    upscale: Mapping[str, Any] | None,
    caption: Mapping[str, Any] | None,
) -> list[str]:
    """Short texts about the measurements of the photo, its crop, its training image and its caption."""
    facts = [f"{photo['width']} × {photo['height']} px"] if photo["width"] else []
    if crop:
        facts.append(f"crop {crop['source_side']} px")
        facts += [f"similarity {float(photo['similarity']):.2f}"] if photo["similarity"] else []
    if upscale and upscale["method"] == "realesrgan":
        facts.append(f"Real-ESRGAN × {float(upscale['scale']):.2f}")
        facts += [f"same face before and after: {float(upscale['similarity']):.2f}"] if upscale["similarity"] else []
    if caption:
        facts.append(CAPTIONED[caption["source"]])
        facts += [_number(int(caption["tokens"]), "token")] if caption["tokens"] else []
    return facts


def _number(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
