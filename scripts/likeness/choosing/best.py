"""The files of best/ beside the chosen LoRA: A1111's sidecar, a preview and a model card."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from likeness.choosing.choice import advice, chosen_cell, separation
from likeness.choosing.scores import SCORED_KINDS, in_chosen_cell, picture_scores, with_gates_of_choice
from likeness.core.manifests import checked
from likeness.drawing.infotext import called_lora, lora_tag
from likeness.drawing.marking import marked_png, read_infotext
from likeness.models.prompts import literal

# The values that A1111 knows (ui_extra_networks_lora.py). With another value the LoRA would not appear in its tab.
A1111_FAMILY = {"sd15": "SD1", "sd2": "SD2", "sdxl": "SDXL"}
BASE_FACTS = ("model", "family", "prediction_type", "digest")  # of a manifest, shown in the card
CONSENT = {
    "self": "The person in the photos made this LoRA of themselves. Do not use it to deceive, or against their will.",
    "written": "The person in the photos agreed in writing; whoever made this LoRA holds the letter. Do not use it to "
    "deceive, or for anything that this person did not agree to.",
    "synthetic": "Nobody: the person in the photos does not exist. Do not use it to deceive.",
}


def preview_png(scores: pd.DataFrame, choice: Mapping[str, Any]) -> bytes:
    """The best picture of the chosen cell, marked as AI made. Its infotext has the name of the LoRA in best/. Raises
    LikenessError if the picture was changed since it was drawn."""
    best = best_picture(scores, choice)
    picture = checked(Path(best["image"]), best["sha256"], "sample_checkpoint")
    text = read_infotext(picture)
    text = text.replace(called_lora(text), Path(choice["lora"]).stem)
    return marked_png(np.asarray(Image.open(picture).convert("RGB")), text)


def best_picture(scores: pd.DataFrame, choice: Mapping[str, Any]) -> pd.Series:
    """The row of the picture with the highest score in the chosen cell; of equal ones, the first."""
    rows = scores[in_chosen_cell(scores, choice) & scores["kind"].isin(SCORED_KINDS)].sort_values(
        ["prompt", "seed"], ignore_index=True
    )
    return rows.iloc[int(np.argmax(picture_scores(with_gates_of_choice(rows, choice), choice["beta"])))]


def judging_hashes(scores: pd.DataFrame, choice: Mapping[str, Any], crops: pd.DataFrame) -> dict[str, str]:
    """{description: sha256} of the pictures of the chosen cell and of the base model, and of the person's crops that
    they were compared with. `crops` has the rows of crops.tsv."""
    samples = scores[in_chosen_cell(scores, choice) | (scores["epoch"] == 0)]
    references = crops[crops["fate"].isin(["train", "heldout"])]
    return {
        **{
            f"{fate}: {crop}": sha256
            for fate, crop, sha256 in references[["fate", "crop", "sha256"]].itertuples(index=False)
        },
        **{
            f"drawn by epoch {epoch}: {prompt}, seed {seed}": sha256
            for epoch, prompt, seed, sha256 in samples[["epoch", "prompt", "seed", "sha256"]].itertuples(index=False)
        },
    }


def calling_words(choice: Mapping[str, Any], subject: Mapping[str, Any]) -> str:
    """The words of a prompt that draw the subject with the chosen LoRA at its weight."""
    return f"{lora_tag(Path(choice['lora']).stem, choice['weight'])} {literal(_words(subject))}"


def sidecar(choice: Mapping[str, Any], subject: Mapping[str, Any], family: str) -> dict[str, object]:
    """The JSON that A1111 reads beside a LoRA: a click on the LoRA's card inserts the weight and the words.

    The keys are those of A1111's ui_edit_user_metadata.py and ui_extra_networks_lora.py.
    """
    use, certainty = advice(choice)
    return {
        "description": f"{_words(subject)}. {use}. Makes AI pictures of one person.",
        "sd version": A1111_FAMILY.get(family, "Unknown"),
        "activation text": literal(_words(subject)),
        "preferred weight": choice["weight"],
        "negative text": "",
        "notes": f"{certainty} Chosen on pictures by {PurePath(choice['drawn_with']['model']).name}. "
        f"Consent: {subject['consent']}.",
    }


def model_card(
    choice: Mapping[str, Any],
    *,
    name: str,
    subject: Mapping[str, Any],
    train: Mapping[str, Any],
    sample: Mapping[str, Any],
    select: Mapping[str, Any],
    base: Mapping[str, Any],
    drawing_base: Mapping[str, Any],
    dataset: Mapping[str, Any],
    hashes: Mapping[str, str],
) -> str:
    """The text of README.md: the consent, the data, the evidence of the choice, the use, and all hashes.

    `base` is the manifest of the model that the LoRA was trained on, `drawing_base` that of the model that drew, which
    may be the same. `hashes` are {description: sha256} of further files, beside those that these and `dataset` list.
    """
    use, sure = advice(choice)
    words, weight = _words(subject), f"{choice['weight']:g}"
    low, high = choice["interval"]
    images, chosen = dataset["images"], chosen_cell(choice)

    def measured(name: str) -> str:
        """A number of the chosen cell, and in brackets that of the base model."""
        values = (cell[name] for cell in (chosen, choice["base"]))
        of_chosen, of_base = ("not measured" if value is None else f"{value:.3f}" for value in values)
        return f"{of_chosen} (base model: {of_base})"

    gates = ", ".join(f"{count} {gate.replace('_', ' ')}" for gate, count in chosen["gates"].items())
    evidence = {
        "Epoch": choice["epoch"],
        "Weight": weight,
        "Score (F-beta, 0 to 1)": f"{choice['score']:.3f}",
        f"Interval of the score ({100 * choice['confidence']:g} %)": f"{low:.3f} to {high:.3f}",
        "Pictures of each epoch and weight": choice["pairs"],
        "Score of the base model without the LoRA": f"{choice['base']['score']:.3f}",
        "Identity": measured("identity"),
        "Identity by the recogniser that took no part": measured("judge_identity"),
        "Identity without the trigger": measured("untrained"),
        "Identity without the trigger by the recogniser that took no part": measured("untrained_judge"),
        "Limit of the identity without the trigger, and of the less alike of two people": f"{choice['leak_limit']:g}",
        "Identity of the less alike of two people": measured("two_people"),
        "Prompt following": measured("prompt_score"),
        "Pictures of it that are excluded": gates or "none",
        "Evidence": choice["evidence"],
        "Settings that cannot be told apart (epoch at weight)": _listed_cells(choice["indistinguishable"]),
    }
    data = {
        "Training photos": len(images),
        "Resolution": f"{dataset['resolution']} x {dataset['resolution']} px",
        "Steps": dataset["arithmetic"],
    }
    bases = {"Trained on": base, "Drawn with": drawing_base}
    if drawing_base["digest"] == base["digest"]:
        bases = {"Trained on and drawn with": base}
    settings = {
        f"{section}.{key}": value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for section, values in (("train", train), ("sample", sample), ("select", select))
        for key, value in sorted(values.items())
    }
    all_hashes = {
        **hashes,
        **{
            f"{role.lower()}: {name}": sha256
            for role, model in bases.items()
            for name, sha256 in sorted(model["sha256"].items())
        },
        **{image["image"]: image["sha256"] for image in images},
        **{f"caption of {image['name']}": image["caption_sha256"] for image in images},
    }
    return f"""# {name}

A LoRA that draws one person. **{_text(use)}**, and write {_code(words)} in the prompt.

{_text(sure)}
{_text(separation(choice, subject))}

Pictures made with it are made by AI. Say so where you show them. Those in this folder say so in their metadata
(IPTC DigitalSourceType: trainedAlgorithmicMedia).

## Consent

`{subject["consent"]}`. {CONSENT[subject["consent"]]}

## Use

{_models_to_draw_with(base, drawing_base)}

{_use(choice, subject, train["network"])}

## How it was chosen

{_how_chosen(choice)}

{_table(evidence)}

Identity is measured against photos that training never saw: 0 is where strangers and the base model's pictures are, on
average over all prompts; 1 is how alike the person's own photos are to one another.

## Data

{_table(data)}

## Base model

{_table({f"{role}: {key}": model[key] for role, model in bases.items() for key in BASE_FACTS})}

## Settings

{_table(settings)}

## sha256

{_table(all_hashes, _code)}
"""


def _how_chosen(choice: Mapping[str, Any]) -> str:
    if not choice["by_hand"]:
        return f"{choice['rule']}."
    return f"By hand (decisions.yaml). {advice(choice)[1]} The rule of the measure: {choice['rule']}."


def _models_to_draw_with(base: Mapping[str, Any], drawing_base: Mapping[str, Any]) -> str:
    if drawing_base["digest"] == base["digest"]:
        return f"Draw with the base model that it was trained on, {_code(base['model'])}, or with a finetune of it."
    return (
        f"Draw with {_code(drawing_base['model'])}: epoch and weight were chosen on its pictures. The LoRA was trained "
        f"on {_code(base['model'])}. Other models of that family draw it too, perhaps best at another weight."
    )


def _use(choice: Mapping[str, Any], subject: Mapping[str, Any], network: str) -> str:
    """How to use the file in each program, or that the program cannot use it. docs/kohya.md has the measurements for
    each kind of network."""
    words, file, weight = _words(subject), choice["lora"], f"{choice['weight']:g}"
    a1111 = f"""copy `{file}` and the `.json` and `.png` of the same name
  into `models/Lora` and click its card, or write {_code(calling_words(choice, subject))}."""
    comfyui = (
        f"copy `{file}` into `models/loras`; node Load LoRA, both strengths {weight}; prompt {_code(literal(words))}."
    )
    diffusers = f""":

  ```python
  pipe.load_lora_weights(".", weight_name="{file}", adapter_name="likeness")
  pipe.set_adapters("likeness", {weight})
  image = pipe({json.dumps(f"photo of {words}", ensure_ascii=False)}).images[0]
  ```"""
    if network in ("loha", "lokr"):
        diffusers = f" does not read this kind ({network}): `load_lora_weights` ends in an error."
    if network == "dora":
        less = "They compute the norm of a DoRA in another way, so their pictures differ slightly from those here."
        ways = {
            "Forge": f"{a1111} {less}",
            "ComfyUI": f"{comfyui} {less}",
            "A1111, InvokeAI": "not with this file. They take the norms along the other axis, which ruins the picture.",
            "diffusers": "not with this file. It drops the magnitudes of a DoRA and says nothing.",
        }
        return "\n".join(f"* **{program}**: {way}" for program, way in ways.items())
    return f"* **A1111, Forge**: {a1111}\n* **ComfyUI**: {comfyui}\n* **diffusers**{diffusers}"


def _text(value: object) -> str:
    """A value as Markdown on one line. Characters of Markdown and HTML are escaped, because prompts and names can have
    them."""
    return re.sub(r"[\\`*\[\]<>|&~$]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", " ".join(str(value).splitlines()))


def _code(value: object) -> str:
    """A value as code in Markdown. The fence is longer than any sequence of backticks in the value."""
    text = " ".join(str(value).splitlines())
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence} {text} {fence}" if "`" in text else f"`{text}`"


def _words(subject: Mapping[str, Any]) -> str:
    return f"{subject['trigger']} {subject['class_noun']}"


def _listed_cells(cells: Sequence[Sequence[float]]) -> str:
    return ", ".join(f"{epoch} at {weight:g}" for epoch, weight in cells) or "none"


def _table(rows: Mapping[str, object], style: Callable[[object], str] = _text) -> str:
    lines = [f"| {_text(key)} | {style(value)} |" for key, value in rows.items()]
    return "\n".join(["| | |", "|---|---|", *lines])
