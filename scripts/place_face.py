"""Put the face of one subject, or of several, into every picture of a place."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from likeness.core import cli
from likeness.core.errors import PhotoError
from likeness.core.files import publish_folder
from likeness.core.manifests import write_table
from likeness.core.provenance import canonical
from likeness.drawing.infotext import face_pass_pairs, infotext, lora_tag, with_pairs
from likeness.drawing.marking import marked_png
from likeness.models.base_model import load_manifest
from likeness.photos.images import png_bytes, read_photo
from likeness.portraits.placed_faces import PlacedPerson, placed_faces
from likeness.portraits.portrait_tables import DRAWN
from likeness.portraits.scenes import seeds_of
from likeness.portraits.studio import Studio, person, picture_row, studio_cache


def main() -> None:
    args = cli.arguments(
        __doc__, "pictures*", "choices*", "loras*", "crops*", "base", "models", "weights*", "cache", "place", "folder"
    )
    place = vars(args.config.place) | {"clip_skip": args.config.portraits.clip_skip}
    base = load_manifest(args.base)
    upscaler = (args.config.upscale.tile, next(iter(args.weights), None))
    studio = Studio(studio_cache(args, __file__), base, args.models, place, upscaler)
    people = [
        PlacedPerson(person(who.name, vars(who), choice, lora, crops), who.face)
        for who, choice, lora, crops in zip(args.config.people, args.choices, args.loras, args.crops, strict=True)
    ]
    prompts = " ".join(
        f"{p.person.prompt(place['prompt'])} {lora_tag(p.person.lora.stem, p.person.weight)}" for p in people
    )

    rows: list[dict[str, Any]] = []
    pictures: dict[str, bytes] = {}

    def add(source: Path, seed: int, stage: str, name: str, png: bytes, picture: Path, **values: Any) -> None:
        pictures[name] = png
        about = {"kind": "place", "name": args.config.place_name, "source": source.name, "seed": seed, "stage": stage}
        about |= {"image": f"{args.folder.name}/{name}", "negative_prompt": place["negative_prompt"], **values}
        rows.append(picture_row(png, read_photo(picture), **about))

    sources = list(readable_pictures(studio, args.pictures))
    originals = [picture for _, picture in sources]
    seeds = seeds_of(place)
    for n, placed in enumerate(placed_faces(studio, originals, people, seeds, args.config.resolution)):
        number = n // len(seeds)
        path, seed, original = sources[number][0], placed.seed, placed.original
        if n % len(seeds) == 0:
            for detail in placed.details:
                cli.say(f"{path.name}: {detail}")
        add(
            path, seed, "original", f"{number:04d}_original.png", original.read_bytes(), original,
            detail="; ".join(placed.details),
        )  # fmt: skip
        if placed.boxes:
            pixels = read_photo(placed.picture)
            text = infotext(prompts, seed, (pixels.shape[1], pixels.shape[0]), place, base, None)
            png = marked_png(pixels, with_pairs(text, face_pass_pairs(prompts, place["strength"])))
            box = placed.boxes.get(args.config.subject_name)
            add(
                path, seed, "face", f"{number:04d}_s{seed}_face.png", png, placed.picture,
                prompt=prompts, box=canonical(box) if box else "",
            )  # fmt: skip
    publish_folder(args.folder, pictures)
    write_table(args.place, rows, DRAWN)
    cli.say(studio.items.summary())


def readable_pictures(studio: Studio, paths: Iterable[Path]) -> Iterator[tuple[Path, Path]]:
    """Each picture of the place with its pixels as a file of the cache. Those that cannot be read are left out."""
    for path in cli.progress(paths, desc="pictures", unit="picture"):
        try:
            yield path, studio.items.get(lambda: png_bytes(read_photo(path)), "original", path.read_bytes())  # noqa: B023
        except PhotoError as error:
            cli.say(f"{path.name}: left out, {error}")


if __name__ == "__main__":
    cli.run(main)
