"""Converts single-file checkpoints to diffusers folders: the tensors are renamed and keep their precision.

Every tensor of every part must be in the file, with the right shape and finite numbers. The tensors are converted one
by one, so a conversion takes the memory of the largest one.
"""

import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from likeness.core.errors import LikenessError
from likeness.core.files import remove, write_atomic
from likeness.core.manifests import is_sealed, seal
from likeness.core.provenance import file_sha256
from likeness.core.tensors import Entry, Header, read_header, torch_dtypes, write_tensors
from likeness.models.compvis import open_clip_name, unet_name, vae_name
from likeness.models.families import SCHEDULER, Family, family_of_file, schedule_of_file
from likeness.models.kinds import kind_of_file, kind_of_other_file, refuse
from likeness.models.weights import check_entry, check_numbers, empty_model, shapes, stem

if TYPE_CHECKING:
    import torch

UNET = "model.diffusion_model."
VAE = ("first_stage_model.", "vae.")
# The precisions that are converted when they are written: the libraries cannot read float8, and float64 is of no use.
_WRITTEN = {"F64": "F32", "F8_E4M3": "F16", "F8_E5M2": "F16"}
# The prefix of a block of layers. Distilled models have fewer blocks.
_BLOCK = re.compile(r".*?transformer_blocks\.\d+\.|(in|out)put_blocks\.\d+\.\d+\.|middle_block\.\d+\.")


class Source(NamedTuple):
    """A tensor of a part and its place in a file. `third` is 0 for the query, 1 for the key and 2 for the value, if the
    file has the three in one tensor."""

    entry: Entry
    third: int | None = None
    transposed: bool = False

    def read(self) -> "torch.Tensor":
        """The tensor in the shape that the part's model has, except for ones at the end of the shape."""
        tensor = self.entry.read()
        tensor = tensor if self.third is None else tensor.chunk(3)[self.third]
        return tensor.T if self.transposed else tensor

    @property
    def shape(self) -> tuple[int, ...]:
        shape = self.entry.shape[::-1] if self.transposed else self.entry.shape
        in_three = self.third is not None and shape and shape[0] % 3 == 0
        return (shape[0] // 3, *shape[1:]) if in_three else shape


class SingleFile(NamedTuple):
    """The header of a checkpoint, its family, and the settings of its noise schedule."""

    header: Header
    family: Family
    schedule: dict[str, Any]


class Candidate(NamedTuple):
    """A name that a file may have for a tensor, and the further fields of the Source under this name."""

    name: str
    third: int | None = None
    transposed: bool = False


def read_single_file(path: Path, what: str) -> SingleFile:
    """A checkpoint by its header. Raises LikenessError for a damaged file, and for a kind of model that cannot be
    trained; `what` names the file."""
    header = _header(path, what)
    family = family_of_file(header.entries)
    refuse(kind_of_file(header) if family else kind_of_other_file(header), what)
    assert family is not None  # else there is a kind, and refuse() raised

    def read(name: str) -> "torch.Tensor":
        entry = header.entries[name]
        check_entry(entry, entry.shape, entry.shape, what)
        return entry.read()

    return SingleFile(header, family, schedule_of_file(family, header.entries, header.metadata, read))


def _header(path: Path, what: str) -> Header:
    try:
        return read_header(path)
    except ValueError as error:
        aside = "macOS' note about a file, not the file; name the one without ._" if path.name.startswith("._") else ""
        raise LikenessError(f"{what}: {aside or f'damaged, or no safetensors file ({error}); get it again'}") from None


def sources(entries: Mapping[str, Entry], family: Family, part: str, what: str) -> dict[str, Source]:
    """The source of each tensor of a part, by the tensor's name in the part's model.

    Raises LikenessError, with the tensor's name, if one is missing or has another shape or precision than expected.
    """
    expected = shapes(empty_model(part, family.config[part], what))
    plan, missing = {}, []
    for name in expected:
        candidates = _candidates(name, part, family)
        candidate = next((candidate for candidate in candidates if candidate.name in entries), None)
        if candidate:
            plan[name] = Source(entries[candidate.name], candidate.third, candidate.transposed)
        else:
            missing.append(candidates[0].name)
    if missing:
        raise LikenessError(f"{what}: {_what_is_missing(missing, entries, part, family)}")
    for name, source in plan.items():
        check_entry(source.entry, source.shape, expected[name], what)
    return plan


def _candidates(name: str, part: str, family: Family) -> list[Candidate]:
    """The names that files have for a tensor, the usual one first."""
    config = family.config[part]
    match part:
        case "unet":
            return [Candidate(UNET + unet_name(name, config))]
        case "vae":
            names = (vae_name(name, len(config["block_out_channels"])), name)
            return [Candidate(prefix + key) for prefix in (*VAE, "") for key in names]
    prefix, short = family.keys[part], name.removeprefix("text_model.")
    if config["hidden_act"] == "quick_gelu":
        # Merges made by old programs have the names of transformers before 4.
        return [Candidate(f"{prefix}text_model.{short}"), Candidate(prefix + short)]
    third = next((number for number, letter in enumerate("qkv") if f".{letter}_proj." in name), None)
    open_clip = Candidate(prefix + open_clip_name(short), third, short == "text_projection.weight")
    return [open_clip, Candidate(prefix + short)]


def _what_is_missing(missing: Sequence[str], entries: Mapping[str, Entry], part: str, family: Family) -> str:
    if part == "unet":
        there = {_block(name) for name in entries if name.startswith(UNET)}
        if not there:
            return "it has no U-Net, so it is text encoders or a VAE alone; expected a whole model"
        blocks = [_block(name) for name in missing]
        absent = {block for block in blocks if block}
        if not absent & there and all(blocks):
            return (
                f"its U-Net lacks {len(absent)} blocks of {family.title}'s, {min(absent)} for one: a distilled model "
                "of another size (SSD-1B, Vega, KOALA, BK-SDM); expected the whole model"
            )
    more = f" and {len(missing) - 1} more" if missing[1:] else ""
    return f"no tensor {missing[0]}{more}; the model is not whole, get it again"


def _block(name: str) -> str | None:
    """The block of layers that a tensor of the U-Net is in; None if it is in none."""
    match = _BLOCK.match(name.removeprefix(UNET))
    return match[0].rstrip(".") if match else None


def converted(path: Path, file: SingleFile, parts: Sequence[str], merge_list: Path, store: Path, what: str) -> Path:
    """The diffusers folder of a checkpoint with the weights of at least these parts, kept under `store` by the file's
    hash.

    Damaged parts of an existing folder are made again. Raises LikenessError, before anything is kept, if a tensor is
    missing, has another shape, or is not finite.
    """
    if "vae" in parts and not any(name.startswith(VAE) for name in file.header.entries):
        raise LikenessError(f"{what}: it has no VAE; name one with vae:")
    family = file.family
    plans = {part: sources(file.header.entries, family, part, what) for part in parts}
    target = store / file_sha256(path)[:16]
    index = target / "model_index.json"
    needed = [part for part in family.parts if part in parts or part not in family.config]
    missing = [part for part in needed if not _is_kept(target / part)]
    if missing or not is_sealed(index):
        with _new_folder(target.with_name(f"{target.name}.partial")) as partial:
            write_config(family, partial, merge_list, file.schedule)
            _write_out(family, partial)
            for part in missing:
                if part in plans:
                    _write_part(partial / part, part, family, plans[part], what)
            if not target.is_dir():
                remove(target)
                target.mkdir()
            for part in missing:
                _keep(partial / part, target / part)
            remove(index)
            (partial / index.name).replace(index)
            seal(index)
    return target


def converted_vae(path: Path, family: Family, store: Path, what: str) -> Path:
    """The folder of the VAE in a single file, which is a VAE alone or a whole checkpoint. The configuration is the
    family's. The folder is kept as in `converted`."""
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
    """Whether the folder of a part exists and all its files are as they were written."""
    files = {path.name for path in folder.glob("[!.]*")}
    files |= {made.name.removeprefix(".").removesuffix(".made") for made in folder.glob(".*.made")}
    return bool(files) and all(is_sealed(folder / name) for name in files)


def _keep(made: Path, folder: Path) -> None:
    """Move a complete part to its place, and replace what is there."""
    for path in sorted(made.iterdir()):
        seal(path)
    remove(folder)
    made.rename(folder)


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """An empty folder, which is removed at the end."""
    remove(folder)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write_part(folder: Path, part: str, family: Family, plan: Mapping[str, Source], what: str) -> None:
    """Write the weights of a part, and its config.json with all settings."""

    def read(name: str) -> "torch.Tensor":
        tensor = plan[name].read()
        check_numbers(tensor, plan[name].entry.name, what)
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


def write_config(
    family: Family, folder: Path, merge_list: Path, schedule: Mapping[str, Any] = MappingProxyType({})
) -> None:
    """Write a family's diffusers folder without weights. `schedule` overrides the scheduler's usual settings."""
    from likeness.models.tokenizer import clip_tokenizer

    scheduler = {"_class_name": "DDIMScheduler", **SCHEDULER, **schedule}
    classes = {
        "scheduler": ["diffusers", "DDIMScheduler"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        **{part: ["transformers", family.config[part]["architectures"][0]] for part in family.text_encoders},
        **{part: ["transformers", "CLIPTokenizer"] for part in family.parts if part.startswith("tokenizer")},
    }
    absent: dict[str, object] = {"feature_extractor": [None, None], "image_encoder": [None, None]}
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
                tokenizer.pad_token = "!"  # the padding that OpenCLIP's models were trained with
            tokenizer.save_pretrained(folder / part)


def _write_out(family: Family, folder: Path) -> None:
    """Let the libraries write the scheduler and the tokenizers of a folder again, with all settings."""
    from diffusers import DDIMScheduler
    from transformers import CLIPTokenizer

    for part in family.parts:
        if part not in family.config:
            kind = DDIMScheduler if part == "scheduler" else CLIPTokenizer
            kind.from_pretrained(folder / part, local_files_only=True).save_pretrained(folder / part)
