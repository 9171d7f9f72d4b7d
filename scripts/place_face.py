"""Put the face of one subject, or of several, into every picture of a place."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from likeness.core import cli
from likeness.core.errors import PhotoError
from likeness.core.files import keep_only
from likeness.core.manifests import write_table
from likeness.core.provenance import canonical
from likeness.drawing.infotext import infotext, inpaint_pairs, lora_tag, with_pairs
from likeness.drawing.marking import marked_png
from likeness.faces.faces_of_picture import box_of
from likeness.models.base_model import load_manifest
from likeness.photos.images import png_bytes, read_photo
from likeness.portraits.placed_faces import PlacedFaces, PlacedPerson, placed_faces
from likeness.portraits.portrait_tables import DRAWN
from likeness.portraits.scenes import seeds_of
from likeness.portraits.studio import Person, Studio, person, studio_cache, written_picture

INPUTS = ("pictures*", "no_pictures*", "choices*", "loras*", "crops*", "base", "models", "weights*")


def main() -> None:
    args = cli.arguments(__doc__, *INPUTS, "cache", "place", "folder")
    place = vars(args.config.place) | {"clip_skip": args.config.portraits.clip_skip}
    base = load_manifest(args.base)
    upscaler = (args.config.upscale.tile, next(iter(args.weights), None))
    studio = Studio(studio_cache(args, __file__), base, args.models, place, upscaler)
    people = [
        PlacedPerson(person(who.name, vars(who), choice, lora, crops), who.face)
        for who, choice, lora, crops in zip(args.config.people, args.choices, args.loras, args.crops, strict=True)
    ]
    originals, unread = originals_of(studio, args.pictures)
    unread |= {path: "is no file that can be read" for path in args.no_pictures}
    rows: list[dict[str, Any]] = []
    about = {"kind": "place", "name": args.config.place_name, "negative_prompt": place["negative_prompt"]}
    numbers, own_rows = {}, {}
    for number, (path, original) in enumerate(originals.items()):
        name, png, pixels = f"{number:04d}_original.png", original.read_bytes(), read_photo(original)
        numbers[original] = number
        shown = about | {"source": path.name, "stage": "original"}
        own_rows[original] = written_picture(args.folder / name, png, pixels, **shown)
    for placed in placed_faces(studio, list(numbers), people, seeds_of(place), args.config.resolution):
        own, seed = own_rows[placed.original], placed.seed
        detail = placed.details.get(args.config.subject_name, "")
        rows.append(own | {"seed": seed, "detail": detail})
        if placed.faces:
            pixels = read_photo(placed.picture)
            size = pixels.shape[1], pixels.shape[0]
            prompt, text = described(placed, [p.person for p in people], args.config.subject_name, place, base, size)
            face = placed.faces.get(args.config.subject_name)
            shown = about | {"source": own["source"], "stage": "face", "seed": seed, "prompt": prompt, "detail": detail}
            shown |= {"box": canonical(box_of(face)) if face else ""}
            name = f"{numbers[placed.original]:04d}_s{seed}_face.png"
            rows.append(written_picture(args.folder / name, marked_png(pixels, text), pixels, **shown))
    for path, why in sorted(unread.items()):
        rows.append(
            {
                **{"kind": "place", "name": args.config.place_name, "source": path.name, "stage": "original"},
                **{"seed": 0, "width": 0, "height": 0, "detail": f"left out: {why}"},
            }
        )
    keep_only(args.folder, [Path(row["image"]).name for row in rows if "image" in row])
    write_table(args.place, rows, DRAWN)
    for sentence in dict.fromkeys(f"{row['source']}: {row['detail']}" for row in rows if row.get("detail")):
        cli.say(sentence)
    cli.say(studio.items.summary())


def originals_of(studio: Studio, paths: Sequence[Path]) -> tuple[dict[Path, Path], dict[Path, str]]:
    """The pictures of the place with their pixels as files of the cache, and why others cannot be read. Of pictures
    with the same pixels only the first is drawn."""
    originals: dict[Path, Path] = {}
    unread: dict[Path, str] = {}
    for path in cli.progress(paths, desc="pictures", unit="picture"):
        try:
            original = studio.items.get(lambda: png_bytes(read_photo(path)), "original", path.read_bytes())  # noqa: B023
        except PhotoError as error:
            unread[path] = str(error)
            continue
        same = next((other.name for other, file in originals.items() if file.suffix == original.suffix), None)
        if same:
            unread[path] = f"the same picture as {same}"
        else:
            originals[path] = original
    return originals, unread


def described(
    placed: PlacedFaces,
    people: Sequence[Person],
    own: str,
    place: Mapping[str, Any],
    base: Mapping[str, Any],
    size: tuple[int, int],
) -> tuple[str, str]:
    """The prompt of the face of the subject `own`, empty if it was not put in, and the infotext of the picture of
    `size` (width, height): how A1111 redraws this face by inpainting, and what the other faces were drawn from."""
    drawn = [who for who in people if who.name in placed.faces]
    first = next((who for who in drawn if who.name == own), drawn[0])
    prompt = first.prompt(place["prompt"])
    text = infotext(prompt, placed.seed, size, place, base, first.used_lora(first.weight))
    others = list(_other_prompts(drawn, first, place))
    return prompt if first.name == own else "", with_pairs(text, inpaint_pairs(place["strength"], others))


def _other_prompts(drawn: Sequence[Person], first: Person, place: Mapping[str, Any]) -> Iterator[str]:
    for who in drawn:
        if who is not first:
            yield f"{who.prompt(place['prompt'])} {lora_tag(who.lora.stem, who.weight)}"


if __name__ == "__main__":
    cli.run(main)
