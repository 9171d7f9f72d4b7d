"""Single-file checkpoints as diffusers folders: their tensors renamed, one by one, in the precision that they have.

Nothing is filled in: every tensor of every part must be there, in its shape and finite. The memory that a conversion
takes is that of the largest tensor.
"""

import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from likeness.compvis import open_clip_name, unet_name, vae_name
from likeness.errors import LikenessError
from likeness.families import SCHEDULER, Family, family_of_file, schedule_of_file
from likeness.files import write_atomic
from likeness.kinds import kind_of_file, kind_of_other_file, refuse
from likeness.manifests import is_whole, seal
from likeness.provenance import file_sha256
from likeness.tensors import Entry, Header, read_header, torch_dtypes, write_tensors
from likeness.weights import check_entry, check_finite, empty_model, shapes, stem

UNET = "model.diffusion_model."
VAE = ("first_stage_model.", "vae.")
# What a tensor is written as where not in its own precision: the libraries read no float8, and nothing needs float64.
_WRITTEN = {"F64": "F32", "F8_E4M3": "F16", "F8_E5M2": "F16"}
# A block of layers that distilled models have fewer of.
_BLOCK = re.compile(r".*?transformer_blocks\.\d+\.|(in|out)put_blocks\.\d+\.\d+\.|middle_block\.\d+\.")


class Source(NamedTuple):
    """Where in a file a tensor is. `third` is which of three that stand in one: query, key, value."""

    entry: Entry
    third: int | None = None
    transposed: bool = False

    def read(self):
        """The tensor as a part's model has it, but for ones at the end of its shape."""
        tensor = self.entry.read()
        tensor = tensor if self.third is None else tensor.chunk(3)[self.third]
        return tensor.T if self.transposed else tensor

    @property
    def shape(self) -> tuple[int, ...]:
        shape = self.entry.shape[::-1] if self.transposed else self.entry.shape
        return shape if self.third is None else (shape[0] // 3, *shape[1:])


class SingleFile(NamedTuple):
    """A checkpoint whose family is known, and what it says of its noise schedule."""

    header: Header
    family: Family
    schedule: dict


def read_single_file(path: Path, what: str) -> SingleFile:
    """What a checkpoint is, by its header. Raises LikenessError for a damaged file and one of a kind that cannot be
    trained; `what` names the file."""
    header = _header(path, what)
    family = family_of_file(header.entries)
    refuse(kind_of_file(header) if family else kind_of_other_file(header), what)
    schedule = schedule_of_file(family, header.entries, header.metadata, lambda name: header.entries[name].read())
    return SingleFile(header, family, schedule)


def _header(path: Path, what: str) -> Header:
    try:
        return read_header(path)
    except ValueError as error:
        aside = "macOS' note about a file, not the file; name the one without ._" if path.name.startswith("._") else ""
        raise LikenessError(f"{what}: {aside or f'damaged, or no safetensors file ({error}); get it again'}") from None


def sources(entries: Mapping[str, Entry], family: Family, part: str, what: str) -> dict[str, Source]:
    """Where each tensor of a part is, by the name that the part's model has for it.

    Raises LikenessError, with the tensor's name, if one is missing or cannot be it.
    """
    expected = shapes(empty_model(part, family.config[part], what))
    found, missing = {}, []
    for name in expected:
        candidates = _candidates(name, part, family)
        source = next((Source(entries[key], *how) for key, *how in candidates if key in entries), None)
        if source:
            found[name] = source
        else:
            missing.append(candidates[0][0])
    if missing:
        raise LikenessError(f"{what}: {_what_is_missing(missing, entries, part, family)}")
    for name, source in found.items():
        check_entry(source.entry, source.shape, expected[name], what)
    return found


def _candidates(name: str, part: str, family: Family) -> list[tuple]:
    """The names that files have for a tensor, the usual one first, each with the further fields of its Source."""
    config = family.config[part]
    match part:
        case "unet":
            return [(UNET + unet_name(name, config),)]
        case "vae":
            names = (vae_name(name, len(config["block_out_channels"])), name)
            return [(prefix + key,) for prefix in (*VAE, "") for key in names]
    prefix, short = family.keys[part], name.removeprefix("text_model.")
    if config["hidden_act"] == "quick_gelu":
        # Merges made by old programs have the names of transformers before 4.
        return [(f"{prefix}text_model.{short}",), (prefix + short,)]
    third = next((number for number, letter in enumerate("qkv") if f".{letter}_proj." in name), None)
    candidates = [(prefix + open_clip_name(short), third, short == "text_projection.weight")]
    return [*candidates, (prefix + short,)]


def _what_is_missing(missing: Sequence[str], entries: Mapping[str, Entry], part: str, family: Family) -> str:
    if part == "unet":
        there = {_block(name) for name in entries if name.startswith(UNET)}
        if not there:
            return "it has no U-Net, so it is text encoders or a VAE alone; expected a whole model"
        fewer = {_block(name) for name in missing} - {None}
        if not fewer & there and all(_block(name) for name in missing):
            return (
                f"its U-Net lacks {len(fewer)} blocks of {family.title}'s, {min(fewer)} for one: a distilled model of "
                "another size (SSD-1B, Vega, KOALA, BK-SDM); expected the whole model"
            )
    more = f" and {len(missing) - 1} more" if missing[1:] else ""
    return f"no tensor {missing[0]}{more}; the model is not whole, get it again"


def _block(name: str) -> str | None:
    found = _BLOCK.match(name.removeprefix(UNET))
    return found[0].rstrip(".") if found else None


def converted(path: Path, file: SingleFile, parts: Sequence[str], merge_list: Path, store: Path, what: str) -> Path:
    """The diffusers folder of a checkpoint with at least these parts' weights, kept under `store` by the file's hash.

    What was damaged there is made anew. Raises LikenessError, before anything is kept, if a tensor is missing, of
    another shape or not finite.
    """
    if "vae" in parts and not any(name.startswith(VAE) for name in file.header.entries):
        raise LikenessError(f"{what}: it has no VAE; name one with vae:")
    family = file.family
    plans = {part: sources(file.header.entries, family, part, what) for part in parts}
    target = store / file_sha256(path)[:16]
    wanted = [part for part in family.parts if part in parts or part not in family.config]
    missing = [part for part in wanted if not _is_kept(target / part)]
    if missing:
        with _new_folder(target.with_name(f"{target.name}.partial")) as partial:
            write_config(family, partial, merge_list, file.schedule)
            _write_out(family, partial)
            for part in missing:
                if part in plans:
                    _write_part(partial / part, part, family, plans[part], what)
            target.mkdir(exist_ok=True)
            for part in missing:
                _keep(partial / part, target / part)
            (partial / "model_index.json").replace(target / "model_index.json")
    return target


def converted_vae(path: Path, family: Family, store: Path, what: str) -> Path:
    """The folder of a single-file VAE, its own or a checkpoint's, with its family's numbers; as `converted`."""
    header = _header(path, what)
    if not any(name.startswith((*VAE, "encoder.", "decoder.")) for name in header.entries):
        refuse(kind_of_other_file(header), what, f"a VAE of {family.title}")
    plan = sources(header.entries, family, "vae", what)
    target = store / f"vae-{family.name}-{file_sha256(path)[:16]}"
    if not _is_kept(target):
        with _new_folder(target.with_name(f"{target.name}.partial")) as partial:
            _write_part(partial, "vae", family, plan, what)
            _keep(partial, target)
    return target


def _is_kept(folder: Path) -> bool:
    """Whether a part is there as it was made; one that an older version made, without seals, is taken as it is."""
    sealed = [folder / made.name.removeprefix(".").removesuffix(".made") for made in folder.glob(".*.made")]
    return folder.is_dir() and all(path.is_file() and is_whole(path) for path in sealed)


def _keep(made: Path, folder: Path) -> None:
    """A part that is whole, in the place of what is there."""
    for path in sorted(made.iterdir()):
        seal(path)
    shutil.rmtree(folder, ignore_errors=True)
    made.rename(folder)


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """An empty folder; what is left of it at the end goes."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write_part(folder: Path, part: str, family: Family, plan: Mapping[str, Source], what: str) -> None:
    """The config.json of a part, with every setting, and its weights."""

    def read(name: str):
        tensor = plan[name].read()
        check_finite(tensor, plan[name].entry.name, what)
        return tensor

    model = empty_model(part, family.config[part], what)
    dtypes = {name: source.entry.dtype for name, source in plan.items()}
    about = {name: (_WRITTEN.get(dtypes[name], dtypes[name]), shape) for name, shape in shapes(model).items()}
    folder.mkdir(exist_ok=True)
    if part.startswith("text_encoder"):
        model.config.dtype = torch_dtypes()[next(iter(about.values()))[0]]
        model.config.save_pretrained(folder)
    else:
        model.save_config(folder)
    write_tensors(folder / f"{stem(part)}.safetensors", about, read)


def write_config(family: Family, folder: Path, merge_list: Path, schedule: Mapping = MappingProxyType({})) -> None:
    """A diffusers folder of a family without weights. `schedule` goes before the scheduler's usual numbers."""
    from likeness.tokenizer import clip_tokenizer

    scheduler = {"_class_name": "DDIMScheduler", **SCHEDULER, **schedule}
    classes = {
        "scheduler": ["diffusers", "DDIMScheduler"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        **{part: ["transformers", family.config[part]["architectures"][0]] for part in family.text_encoders},
        **{part: ["transformers", "CLIPTokenizer"] for part in family.parts if part.startswith("tokenizer")},
    }
    absent = {"feature_extractor": [None, None], "image_encoder": [None, None]}
    if family.name != "sdxl":
        absent |= {"safety_checker": [None, None], "requires_safety_checker": False}
    write_atomic(folder / "model_index.json", json.dumps({"_class_name": family.pipeline, **absent, **classes}))
    write_atomic(folder / "scheduler/scheduler_config.json", json.dumps(scheduler))
    for part, numbers in family.config.items():
        write_atomic(folder / part / "config.json", json.dumps(numbers))
    for part in family.parts:
        if part.startswith("tokenizer"):
            tokenizer = clip_tokenizer(merge_list)
            if family.config[part.replace("tokenizer", "text_encoder")]["pad_token_id"] == 0:
                tokenizer.pad_token = "!"  # what OpenCLIP's models were trained to be padded with
            tokenizer.save_pretrained(folder / part)


def _write_out(family: Family, folder: Path) -> None:
    """The scheduler and the tokenizers of a folder as their libraries write them, with every setting."""
    from diffusers import DDIMScheduler
    from transformers import CLIPTokenizer

    for part in family.parts:
        if part not in family.config:
            kind = DDIMScheduler if part == "scheduler" else CLIPTokenizer
            kind.from_pretrained(folder / part, local_files_only=True).save_pretrained(folder / part)
