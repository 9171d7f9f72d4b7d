"""Scale every crop to the training resolution, without changing the identity of the face."""

import hashlib
import json
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from likeness.core import cli, devices, files, manifests, pinned_models, provenance
from likeness.faces import upscale
from likeness.faces.detection import Detector
from likeness.faces.identity import Recogniser, face_embedding
from likeness.photos import images

COLUMNS = [
    *("photo", "fate", "crop", "image", "sha256", "method", "scale", "similarity", "detail"),
    *("source_side", "face_fraction", "face", "yaw", "pitch", "roll", "brightness", "attributes"),
]
FACE_MODELS = [
    *(pinned_models.FACE_DETECTION_SHORT_RANGE, pinned_models.FACE_DETECTION_FULL_RANGE, pinned_models.FACE_LANDMARKER),
    pinned_models.FACE_RECOGNITION_SFACE,
]
PUBLISHED = [pinned_models.REALESRGAN_GRAPH, pinned_models.REALESRGAN_WEIGHTS]


def main() -> None:
    args = cli.arguments(__doc__, "crops", "models", "weights*", "cache", "upscaled", "folder")
    resolution, settings = args.config.resolution, args.config.upscale
    own_weights = args.weights[0] if args.weights else None
    hashes = manifests.read_json(args.models / "models.json")
    used = [hashes[name] for name in FACE_MODELS]
    used += [provenance.file_sha256(own_weights)] if own_weights else [hashes[name] for name in PUBLISHED]
    common = provenance.canonical([resolution, settings.tile, settings.min_similarity, used])
    items = files.ItemCache(args.cache, common, provenance.code_digest(Path(__file__)))

    # Loaded for the first crop that needs them: a rerun needs neither, nor do crops that are large enough.
    @cache
    def upsampler() -> Any:
        devices.claim_gpu(cli.say)
        return upscale.real_esrganer(args.models, settings.tile, devices.torch_device(), own_weights)

    @cache
    def face_models() -> tuple[Detector, Recogniser]:
        return Detector(args.models), Recogniser(args.models)

    def enlarge(image: np.ndarray) -> np.ndarray:
        return upscale.enlarged(image, upsampler())

    def embed(image: np.ndarray) -> np.ndarray | None:
        return face_embedding(image, *face_models())[1]

    def item(crop: Path, size: tuple[int, int]) -> bytes:
        """A line of JSON with the measurements, followed by the PNG."""
        measured = upscale.upscaled(images.read_photo(crop), size, enlarge, embed, settings.min_similarity)._asdict()
        png = images.png_bytes(measured.pop("image"))
        return provenance.canonical(measured).encode() + b"\n" + png

    crops = manifests.read_table(args.crops)
    rows, pictures = [], {}
    for row in cli.progress(crops.to_dict("records"), desc="upscale", unit="photo"):
        crop = manifests.checked(args.crops.parent / row["crop"], row["sha256"], "crop_faces")
        width, height = json.loads(row["size"])
        path = items.get(partial(item, crop, (width, height)), crop.read_bytes(), row["size"])
        line, _, png = path.read_bytes().partition(b"\n")
        measured = json.loads(line)
        if measured["detail"]:
            cli.say(f"{row['photo']}: {measured['detail']}")
        pictures[crop.name] = png
        rows.append(
            {
                **row,
                **measured,
                "image": f"{args.folder.name}/{crop.name}",
                "sha256": hashlib.sha256(png).hexdigest(),
                "scale": f"{resolution / int(row['source_side']):.3f}",
                "similarity": "" if measured["similarity"] is None else f"{measured['similarity']:.3f}",
            }
        )
    files.publish_folder(args.folder, pictures)
    manifests.write_table(args.upscaled, rows, COLUMNS)
    methods = [row["method"] for row in rows]
    cli.say(f"{len(rows)} photos: {methods.count('realesrgan')} by Real-ESRGAN, {methods.count('lanczos')} by Lanczos")
    cli.say(items.summary())


if __name__ == "__main__":
    cli.run(main)
