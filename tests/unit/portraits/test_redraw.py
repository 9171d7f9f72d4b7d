"""Redrawing: the strength decides how much changes, the mask decides where, and tiles leave no seam."""

import numpy as np
import pytest
import torch

from likeness.core.errors import LikenessError
from likeness.drawing.sampling import SAMPLERS, load_pipeline
from likeness.photos.images import lanczos, read_photo
from likeness.portraits import redraw
from likeness.portraits.redraw import Piece, Redrawer, Redrawing, joined, tiles

HOW = Redrawing("photo of a woman", "", 0.5, 6, 3.0, 1)


@pytest.fixture(scope="module")
def pipeline(base_manifest):
    return load_pipeline(base_manifest, None, torch.device("cpu"))


@pytest.fixture(scope="module")
def picture(ava) -> np.ndarray:
    return lanczos(read_photo(ava / "05.jpg"), 64, 64)


def difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(float) - b).mean())


def left_half(picture: np.ndarray) -> np.ndarray:
    mask = np.zeros(picture.shape[:2], np.float32)
    mask[:, : picture.shape[1] // 2] = 1
    return mask


def redrawn(pipeline, picture: np.ndarray, how: Redrawing, mask: np.ndarray | None = None, seed: int = 7) -> np.ndarray:
    (new,) = Redrawer(pipeline).redrawn([Piece(picture, seed, mask)], how, 1.0)
    return new


def in_tiles(picture: np.ndarray, side: int, redraw) -> np.ndarray:
    return joined([redraw(tile) for tile in tiles(picture, side)], picture.shape[:2], side)


def test_a_higher_strength_changes_more(pipeline, picture):
    as_decoded = redrawn(pipeline, picture, HOW, np.zeros(picture.shape[:2], np.float32))
    changes = [difference(redrawn(pipeline, picture, HOW._replace(strength=s)), as_decoded) for s in (0.2, 0.5, 0.9)]
    assert changes == sorted(changes) and changes[0] < changes[2] / 2


def test_the_same_seed_gives_the_same_picture_and_another_seed_another(pipeline, picture):
    first, again, other = (redrawn(pipeline, picture, HOW, seed=seed) for seed in (7, 7, 8))
    assert (first == again).all() and (first != other).any()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_with_a_mask_over_everything_it_is_what_it_is_without_one(base_manifest, picture, sampler):
    pipeline = load_pipeline(base_manifest, None, torch.device("cpu"), sampler)
    masked = redrawn(pipeline, picture, HOW, np.ones(picture.shape[:2], np.float32))
    assert (masked == redrawn(pipeline, picture, HOW)).all()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_outside_the_mask_the_latents_are_the_pictures_own(base_manifest, picture, sampler, monkeypatch):
    pipeline = load_pipeline(base_manifest, None, torch.device("cpu"), sampler)
    vae, decoded = pipeline.diffusers.vae, []

    def noted(latents: torch.Tensor, *arguments: object, **options: object) -> object:
        decoded.append(latents)
        return type(vae).decode(vae, latents, *arguments, **options)

    monkeypatch.setattr(vae, "decode", noted)
    redrawn(pipeline, picture, HOW, np.zeros(picture.shape[:2], np.float32))
    redrawn(pipeline, picture, HOW._replace(strength=0.9), left_half(picture))
    own, half = decoded
    assert (half[..., 4:] == own[..., 4:]).all() and (half[..., :4] != own[..., :4]).float().mean() > 0.9


def test_a_pass_with_few_steps_and_a_low_strength_still_draws_one(pipeline, picture):
    how = HOW._replace(strength=0.1, steps=4)
    as_decoded = redrawn(pipeline, picture, how, np.zeros(picture.shape[:2], np.float32))
    assert difference(redrawn(pipeline, picture, how), as_decoded) > 0


def test_a_picture_is_the_same_whatever_batch_it_is_in(pipeline, picture):
    """On a CPU: to one level of 255, as a batch of samples."""
    masks = [left_half(picture), np.ones(picture.shape[:2], np.float32), left_half(picture)[:, ::-1]]
    shown = [picture, 255 - picture, picture]
    pieces = [Piece(*parts) for parts in zip(shown, (7, 8, 9), masks, strict=True)]
    together = list(Redrawer(pipeline).redrawn(pieces, HOW, 1.0))
    for piece, found in zip(pieces, together, strict=True):
        alone = redrawn(pipeline, piece.image, HOW, piece.mask, piece.seed)
        assert np.abs(alone.astype(int) - found).max() <= 1


def test_pictures_of_other_sizes_wait_for_a_batch_of_their_own(pipeline, picture):
    pieces = [Piece(shown, 7) for shown in (picture, picture[:48], picture)]
    assert [new.shape for new in Redrawer(pipeline).redrawn(pieces, HOW, 1.0)] == [
        (64, 64, 3),
        (48, 64, 3),
        (64, 64, 3),
    ]


def test_each_text_is_read_once(pipeline, picture, monkeypatch):
    texts = []
    read = redraw.conditioning_of
    noted = lambda pipe, text, skip: texts.append(text) or read(pipe, text, skip)  # noqa: E731
    monkeypatch.setattr(redraw, "conditioning_of", noted)
    redrawer = Redrawer(pipeline)
    for weight in (0.5, 1.0):
        list(redrawer.redrawn([Piece(picture, 7)] * 2, HOW, weight))
    assert sorted(texts) == ["", "photo of a woman"]


@pytest.fixture
def room_for(pipeline):
    """Lets the U-Net fail, as torch does on a CPU, with more pictures at once than there is room for."""
    hooks = []

    def limit(count: int) -> list[int]:
        sizes = []

        def full(unet, inputs, options):
            sizes.append(len(inputs[0]) // 2)  # with guidance each picture stands there twice
            if sizes[-1] > count:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")

        hooks.append(pipeline.diffusers.unet.register_forward_pre_hook(full, with_kwargs=True))
        return sizes

    yield limit
    hooks[0].remove()
    pipeline.diffusers.vae.disable_tiling()


def test_a_users_batch_size_is_kept_and_a_batch_is_there_before_the_next_is_drawn(pipeline, picture, room_for):
    sizes = room_for(9)
    redrawing_of_five = Redrawer(pipeline, batch_size=2).redrawn([Piece(picture, seed) for seed in range(5)], HOW, 1.0)
    next(redrawing_of_five)
    drawn_first = len(sizes)
    assert len(list(redrawing_of_five)) == 4 and len(sizes) == 3 * drawn_first
    assert list(dict.fromkeys(sizes)) == [2, 1]


def test_where_memory_runs_out_batches_are_halved_and_no_picture_is_lost(pipeline, picture, room_for):
    pieces = [Piece(picture, seed) for seed in range(5)]
    expected = list(Redrawer(pipeline).redrawn(pieces, HOW, 1.0))
    sizes = room_for(2)
    found = list(Redrawer(pipeline).redrawn(pieces, HOW, 1.0))
    assert list(dict.fromkeys(sizes)) == [4, 2, 1], "halves of the batch of a CPU, and the one that is left"
    for old, new in zip(expected, found, strict=True):
        assert np.abs(old.astype(int) - new).max() <= 1


def test_the_vae_of_a_single_picture_works_in_tiles_before_the_end_is_one_readable_line(pipeline, picture, room_for):
    sizes = room_for(0)
    with pytest.raises(LikenessError, match="out of memory while 64 x 64 px were redrawn; close other programs"):
        list(Redrawer(pipeline).redrawn([Piece(picture, 7)], HOW, 1.0))
    assert sizes == [1, 1] and pipeline.diffusers.vae.use_tiling


@pytest.mark.parametrize(("size", "count"), [((100, 84), 1), ((200, 132), 4), ((131, 260), 6)])
def test_tiles_that_are_not_changed_give_the_picture_itself(size, count, ava):
    picture = lanczos(read_photo(ava / "05.jpg"), *size)
    tiles = []

    def noted(tile: np.ndarray) -> np.ndarray:
        tiles.append(tile.shape)
        return tile

    whole = in_tiles(picture, 128, noted)
    assert whole.shape == picture.shape and difference(whole, picture) < 1
    assert all(side % 8 == 0 and side <= 128 for shape in tiles for side in shape[:2])
    assert len(tiles) == count


def test_tiles_of_different_brightness_fade_into_each_other(ava):
    picture = np.full((128, 300, 3), 100, np.uint8)
    shades = iter([100, 140, 100])
    whole = in_tiles(picture, 128, lambda tile: np.full_like(tile, next(shades)))
    assert np.abs(np.diff(whole[64, :, 0].astype(int))).max() <= 2 and whole.max() == 140
