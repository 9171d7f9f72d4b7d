"""What training reads instead of pictures and words: in the dataset's order, whole, and of this dataset."""

import copy
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

import cache_latents
from damage import DAMAGES
from likeness.core.errors import LikenessError
from likeness.core.tensors import read_metadata, safetensors_bytes
from likeness.models.base_model import load_part, manifest
from likeness.models.conditioning import conditioning, load_text_encoders, load_tokenizers, token_ids
from likeness.training.latents import load_latents

GROUPS = {"images": ["b", "a"], "heldout": ["h"], "regularisation": ["a", "r"]}


@pytest.fixture(scope="module")
def made(root, small_base, tmp_path_factory) -> Path:
    """A folder with dataset.json of five pictures, one of them wide, base.json, and latents with and without flips."""
    folder = tmp_path_factory.mktemp("latents")
    dataset, noise = {"resolution": 64, "bare_class": captioned("photo of a woman")}, np.random.default_rng(0)
    for group, names in GROUPS.items():
        dataset[group] = []
        for name in names:
            size = (96, 64) if name == "b" else (64, 64)
            picture = folder / group / f"{name}.png"
            picture.parent.mkdir(exist_ok=True)
            Image.fromarray(noise.integers(0, 256, (size[1], size[0], 3), np.uint8)).save(picture)
            caption = "woman" if group == "regularisation" else f"ohwx woman, {name}"
            dataset[group].append(
                {
                    **{"name": name, "image": f"{group}/{name}.png", "size": list(size), **captioned(caption)},
                    "sha256": hashlib.sha256(picture.read_bytes()).hexdigest(),
                }
            )
    for item in dataset["images"]:
        item |= {f"class_{key}": value for key, value in captioned(f"a woman, {item['name']}").items()}
    (folder / "dataset.json").write_text(json.dumps(dataset))
    (folder / "base.json").write_text(json.dumps(manifest("small", small_base, folder)))
    outcomes = [encode(root, folder, flips) for flips in (False, True, False)]
    # Five pictures, five captions with the empty one and three of the class, then four mirrored pictures.
    assert outcomes == ["items: 13 computed, 1 reused", "items: 4 computed, 14 reused", "items: 0 computed, 14 reused"]
    return folder


def captioned(caption: str) -> dict[str, str]:
    return {"caption": caption, "caption_sha256": hashlib.sha256(caption.encode()).hexdigest()}


def options(folder: Path, flips: bool = False, token_lengths: tuple[int, ...] = (75,), **others: Path) -> list[str]:
    """The script's, as its rule gives them, for the files of a folder."""
    config = json.dumps({"clip_skip": 1, "flips": flips, "token_lengths": token_lengths})
    files = {"dataset": "dataset.json", "base": "base.json", "cache": "cache", "latents": latents_name(flips)}
    paths = {name: folder / file for name, file in files.items()} | others
    return ["--config", config, *(word for name, path in paths.items() for word in (f"--{name}", str(path)))]


def encode(root: Path, folder: Path, flips: bool) -> str:
    """Run the script as its rule does; the log's last line."""
    command = [sys.executable, root / "scripts/cache_latents.py", *options(folder, flips)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()[-1]


def encode_here(monkeypatch, capsys, folder: Path, **others) -> str:
    """The same in this process; the whole log."""
    monkeypatch.setattr(sys, "argv", ["cache_latents.py", *options(folder, **others)])
    cache_latents.main()
    return capsys.readouterr().out


def test_memory_that_runs_out_is_a_sentence(made, tmp_path, monkeypatch):
    others = {"cache": tmp_path / "cache", "latents": tmp_path / "latents.safetensors"}
    monkeypatch.setattr(sys, "argv", ["cache_latents.py", *options(made, **others)])
    monkeypatch.setattr("likeness.training.latents.encoded_image", lambda *_: torch.empty(2**62, dtype=torch.uint8))
    with pytest.raises(LikenessError, match="out of memory, .*; every setting that saves memory is in use already"):
        cache_latents.main()


def latents_name(flips: bool) -> str:
    return "flipped.safetensors" if flips else "latents.safetensors"


@pytest.fixture
def dataset(made) -> dict:
    return json.loads((made / "dataset.json").read_text())


def test_latents_are_those_of_the_pictures_in_the_order_of_the_dataset(made, dataset, base_manifest):
    vae = load_part(base_manifest, "vae")
    latents = load_latents(made / "latents.safetensors", dataset)
    assert set(latents) == {*GROUPS, "empty", "bare_class"}
    for group in GROUPS:
        of_class = {"class_tokens", "class_hidden"} if group == "images" else set()
        assert set(latents[group]) == {"mean", "std", "tokens", "hidden"} | of_class
        for item, mean, std in zip(dataset[group], latents[group]["mean"], latents[group]["std"], strict=True):
            expected = posterior(vae, np.asarray(Image.open(made / item["image"])))
            assert mean.shape == (4, item["size"][1] // 8, item["size"][0] // 8)
            torch.testing.assert_close(mean, expected.mean[0] * vae.config.scaling_factor)
            torch.testing.assert_close(std, expected.std[0] * vae.config.scaling_factor)


def test_words_are_those_of_the_captions_and_of_the_empty_one(made, dataset, base_manifest):
    tokenizers, encoders = load_tokenizers(base_manifest), load_text_encoders(base_manifest)
    latents = load_latents(made / "latents.safetensors", dataset)
    captions = [(group, i, item["caption"]) for group in GROUPS for i, item in enumerate(dataset[group])]
    captions = [(group, "", i, caption) for group, i, caption in captions]
    captions += [("images", "class_", i, item["class_caption"]) for i, item in enumerate(dataset["images"])]
    captions += [("empty", "", 0, ""), ("bare_class", "", 0, "photo of a woman")]
    for group, prefix, i, caption in captions:
        tokens = token_ids(tokenizers, caption)
        assert latents[group][f"{prefix}tokens"][i].equal(tokens) and tokens.shape == (1, 77)
        with torch.no_grad():
            hidden = conditioning(encoders, tokens[None], 1).hidden[0]
        torch.testing.assert_close(latents[group][f"{prefix}hidden"][i], hidden)
    assert len(latents["empty"]["hidden"]) == 1


def test_every_length_that_a_run_reads_is_in_the_file_and_the_usual_one_as_ever(
    made, dataset, tmp_path, monkeypatch, capsys
):
    """The captions of 75 tokens have the same bytes, whether another run reads 150 or not."""
    usual, file = safetensors.torch.load_file(made / "latents.safetensors"), tmp_path / "latents.safetensors"
    said = encode_here(monkeypatch, capsys, made, token_lengths=(75, 150), latents=file)
    assert said.splitlines()[-1] == "items: 8 computed, 15 reused", "eight captions, once more"
    both = safetensors.torch.load_file(file)
    assert all(torch.equal(both[name], tensor) for name, tensor in usual.items())
    latents = load_latents(file, dataset, 150)
    for name in ("images", "heldout", "regularisation", "empty", "bare_class"):
        assert {tensor.shape for tensor in latents[name]["tokens"]} == {(1, 2, 77)}
        assert {tensor.shape for tensor in latents[name]["hidden"]} == {(152, 32)}
    with pytest.raises(
        LikenessError, match="no tokens of the empty caption; run: snakemake --cores all --forcerun cache_latents"
    ):
        load_latents(file, dataset, 225)


def test_a_regularisation_caption_that_is_cut_is_said_once(made, tmp_path, monkeypatch, capsys):
    dataset = json.loads((made / "dataset.json").read_text())
    for item in dataset["regularisation"]:
        item |= captioned("a woman " + "on a boat " * 30)
    for group in GROUPS:
        for item in dataset[group]:
            item["image"] = str(made / item["image"])
    (tmp_path / "dataset.json").write_text(json.dumps(dataset))
    base = json.loads((made / "base.json").read_text())
    base["path"] = str((made / base["path"]).resolve())
    (tmp_path / "base.json").write_text(json.dumps(base))
    said = encode_here(monkeypatch, capsys, tmp_path)
    assert said.count("regularisation caption 'a woman on a boat on a boat on a boat on") == 1
    assert "94 tokens, the base model reads 77: the last 17 words will not be seen; shorten it, or set" in said


def test_a_flipped_latent_is_that_of_the_mirrored_picture(made, dataset, base_manifest):
    vae = load_part(base_manifest, "vae")
    latents = load_latents(made / "flipped.safetensors", dataset)
    assert "flipped_mean" not in latents["heldout"]
    for group in ("images", "regularisation"):
        for item, mean, flipped in zip(
            dataset[group], latents[group]["mean"], latents[group]["flipped_mean"], strict=True
        ):
            mirrored = np.asarray(Image.open(made / item["image"]))[:, ::-1]
            torch.testing.assert_close(flipped, posterior(vae, mirrored).mean[0] * vae.config.scaling_factor)
            assert not torch.allclose(flipped, mean.flip(-1), atol=1e-3)


def posterior(vae, pixels: np.ndarray):
    with torch.no_grad():
        return vae.encode(torch.tensor(pixels.copy()).permute(2, 0, 1)[None] / 127.5 - 1).latent_dist


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("key", ["sha256", "caption_sha256"])
def test_latents_of_other_pictures_or_captions_are_refused(made, dataset, group, key):
    other = copy.deepcopy(dataset)
    other[group][0][key] = "0" * 64
    with pytest.raises(
        LikenessError, match="not made from this dataset; run: snakemake --cores all --forcerun cache_latents"
    ):
        load_latents(made / "latents.safetensors", other)
    del other[group][0]
    with pytest.raises(
        LikenessError, match="not made from this dataset; run: snakemake --cores all --forcerun cache_latents"
    ):
        load_latents(made / "latents.safetensors", other)


def test_a_latent_of_another_size_than_its_picture_names_the_photo(made, dataset):
    dataset["images"][0]["size"] = [64, 96]
    with pytest.raises(LikenessError, match=r"the mean of b is \(4, 8, 12\), not .* 64x96; .*--forcerun cache_latents"):
        load_latents(made / "latents.safetensors", dataset)


@pytest.mark.parametrize(
    ("missing", "whose"),
    [("heldout.h.std", "no std of h;"), ("images.b.flipped_mean", "no flipped_mean of b;"),
     ("empty.hidden", "no hidden of the empty caption;"), (hashlib.sha256(b"woman").hexdigest(), "no tokens of a;")],
)  # fmt: skip
def test_a_missing_tensor_names_the_photo(made, dataset, tmp_path, missing, whose):
    data = (made / "flipped.safetensors").read_bytes()
    tensors = {k: v for k, v in safetensors.torch.load(data).items() if not k.startswith(missing)}
    (tmp_path / "latents.safetensors").write_bytes(safetensors_bytes(tensors, read_metadata(data)))
    with pytest.raises(LikenessError, match=f"{whose} run: snakemake --cores all --forcerun cache_latents"):
        load_latents(tmp_path / "latents.safetensors", dataset)


@pytest.mark.parametrize("damage", [*DAMAGES, lambda file: file.write_bytes(b"x" * 999)])
def test_a_damaged_file_is_named(made, dataset, tmp_path, damage):
    damaged = tmp_path / "latents.safetensors"
    for name in (damaged.name, f".{damaged.name}.made"):
        shutil.copy(made / name, tmp_path)
    damage(damaged)
    with pytest.raises(
        LikenessError, match=r"latents.safetensors is damaged .*snakemake --cores all --forcerun cache_latents"
    ):
        load_latents(damaged, dataset)


def test_a_picture_of_another_size_than_the_dataset_says_is_named(root, made, dataset, tmp_path):
    for group in GROUPS:
        for item in dataset[group]:
            item["image"] = str(made / item["image"])
    dataset["heldout"][0]["size"] = [64, 128]
    (tmp_path / "dataset.json").write_text(json.dumps(dataset))
    base = json.loads((made / "base.json").read_text())
    base["path"] = str((made / base["path"]).resolve())
    (tmp_path / "base.json").write_text(json.dumps(base))
    with pytest.raises(AssertionError, match="h.png is 64x64; expected 64x128"):
        encode(root, tmp_path, False)
