"""Draw one scene with the chosen LoRA: plain, enlarged and redrawn (hires), and with the face redrawn alone."""

from pathlib import Path
from typing import Any

from likeness.core import cli
from likeness.core.files import keep_only
from likeness.core.manifests import read_table, write_table
from likeness.core.provenance import canonical
from likeness.drawing.infotext import face_pass_pairs, hires_pairs, infotext, with_pairs
from likeness.drawing.marking import marked_png
from likeness.faces.identity import decode_embedding
from likeness.models.base_model import load_manifest
from likeness.photos.images import read_photo
from likeness.portraits.portrait_tables import DRAWN
from likeness.portraits.scenes import SceneDrawing, drawn_stages
from likeness.portraits.studio import Studio, person, studio_cache, written_picture


def main() -> None:
    args = cli.arguments(
        __doc__, "choice", "lora", "base", "photos", "crops", "models", "weights*", "cache", "scene", "folder"
    )
    scene = vars(args.config.scene) | {"clip_skip": args.config.portraits.clip_skip}
    base, resolution = load_manifest(args.base), args.config.resolution
    who = person(args.config.subject_name, vars(args.config.subject), args.choice, args.lora, args.crops)
    upscaler = (args.config.upscale.tile, next(iter(args.weights), None))
    studio = Studio(studio_cache(args, __file__), base, args.models, scene, upscaler)
    photos = read_table(args.photos)
    of_person = [decode_embedding(text) for text in photos.loc[photos["fate"] == "train", "embedding"]]
    drawing = SceneDrawing(studio, who, scene, resolution, of_person)

    rows: list[dict[str, Any]] = []
    for number, (seed, stages) in enumerate(drawn_stages(drawing)):
        for stage in stages:
            name = f"{number:04d}_s{seed}_{stage.name}.png"
            pixels = read_photo(stage.picture)
            png = marked_png(pixels, _infotext(stage.name, drawing, base, seed))
            rows.append(
                written_picture(
                    args.folder / name,
                    png,
                    pixels,
                    kind="scene",
                    name=args.config.scene_name,
                    seed=seed,
                    stage=stage.name,
                    prompt=stage.prompt,
                    negative_prompt=scene["negative_prompt"],
                    box=canonical(stage.box) if stage.box else "",
                    detail=stage.detail,
                )
            )
    keep_only(args.folder, [Path(row["image"]).name for row in rows])
    write_table(args.scene, rows, DRAWN)
    cli.say(studio.items.summary())


def _infotext(stage: str, drawing: SceneDrawing, base: dict[str, Any], seed: int) -> str:
    """The infotext of a stage, with the fields of the stages before it."""
    scene = drawing.settings
    used = drawing.person.used_lora(drawing.weight)
    text = infotext(drawing.prompt, seed, drawing.size, scene, base, used)
    if scene["hires"] > 1 and stage != "plain":
        text = with_pairs(text, hires_pairs(scene["hires"], scene["hires_strength"], scene["hires_upscaler"]))
    if stage == "face":
        text = with_pairs(text, face_pass_pairs(drawing.face_prompt_with_lora, scene["face_strength"]))
    return text


if __name__ == "__main__":
    cli.run(main)
