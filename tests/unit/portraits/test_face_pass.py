"""The face pass: what it redraws, and what keeps its pixels."""

import numpy as np
import pytest

from face_photos import on_wall, only_face, turned
from likeness.faces.detection import Detector
from likeness.photos.images import lanczos, read_photo
from likeness.portraits.face_pass import FaceToRedraw, Framing, framing_of, head_mask, matched

SIDE = 128
FRAMING = Framing(0.45, 0.48)


def fourfold(picture: np.ndarray) -> np.ndarray:
    return lanczos(picture, 4 * picture.shape[1], 4 * picture.shape[0])


def with_face_redrawn(photo: np.ndarray, face: dict, framing: Framing, side: int, redraw, enlarge) -> np.ndarray:
    cut_out = FaceToRedraw(photo, face, framing, side, enlarge)
    return cut_out.placed(redraw(cut_out.cut, cut_out.mask))


def unchanged(cut: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return cut


@pytest.fixture(scope="module")
def detector(model_files) -> Detector:
    return Detector(model_files)


@pytest.fixture(scope="module")
def portrait(ava) -> np.ndarray:
    return read_photo(ava / "05.jpg")


@pytest.fixture(scope="module", params=[0, 12, 90], ids=lambda degrees: f"turned by {degrees}")
def photo(request, portrait) -> np.ndarray:
    return turned(on_wall(portrait, 300, 600, 800), request.param)


def test_outside_the_mask_every_pixel_is_the_same(photo, detector):
    face = only_face(detector, photo)
    new = with_face_redrawn(photo, face, FRAMING, SIDE, lambda cut, mask: 255 - cut, fourfold)
    outside = head_mask(photo.shape[:2], face, FRAMING) == 0
    assert (new[outside] == photo[outside]).all()
    assert (new[~outside] != photo[~outside]).any(axis=-1).mean() > 0.9
    assert 0.5 < outside.mean() < 0.95, "the mask is a head, not the whole picture"


def test_the_model_sees_the_face_upright_and_where_the_training_crops_have_it(photo, detector):
    seen = {}

    def noted(cut: np.ndarray, mask: np.ndarray) -> np.ndarray:
        seen.update(cut=cut, mask=mask)
        return cut

    with_face_redrawn(photo, only_face(detector, photo), FRAMING, SIDE, noted, fourfold)
    assert seen["cut"].shape == (SIDE, SIDE, 3) and seen["mask"].shape == (SIDE, SIDE)
    (face,) = detector.faces(np.kron(seen["cut"], np.ones((4, 4, 1), np.uint8)))
    assert abs(float(face["roll"])) < 3
    assert float(face["face_height"]) / (4 * SIDE) == pytest.approx(0.45, abs=0.03)
    middle = seen["mask"][round(float(face["center_y"]) / 4), round(float(face["center_x"]) / 4)]
    assert middle == 1 and seen["mask"][0].max() == 0 == seen["mask"][:, 0].max()


def test_a_face_that_is_not_changed_comes_back_as_it_was(photo, detector):
    face = only_face(detector, photo)
    new = with_face_redrawn(photo, face, FRAMING, 512, unchanged, fourfold)
    error = np.abs(new.astype(float) - photo)[head_mask(photo.shape[:2], face, FRAMING) > 0]
    assert error.mean() < 2.5, "levels of 255; a square of 512 px was resampled there and back"


def test_an_upright_square_of_the_base_models_own_size_loses_nothing(portrait, detector):
    photo = on_wall(portrait, 300, 600, 800)
    face = only_face(detector, photo) | {"roll": 0}
    side = round(float(face["face_height"]) / 0.45)
    assert (with_face_redrawn(photo, face, FRAMING, side, unchanged, fourfold) == photo).all()


def test_another_light_on_the_redrawn_face_makes_no_seam(photo, detector):
    """Across the border the picture changes no more than it does there before."""
    face = only_face(detector, photo)
    brighter = with_face_redrawn(
        photo, face, FRAMING, SIDE, lambda cut, mask: np.clip(cut.astype(int) + 30, 0, 255).astype(np.uint8), fourfold
    )
    mask = head_mask(photo.shape[:2], face, FRAMING)
    border = (mask > 0) & (mask < 0.5)

    change = brighter.astype(float) - photo
    along_border = [np.abs(np.diff(change, axis=axis, prepend=0))[border].mean() for axis in (0, 1)]
    assert max(along_border) < 1.5, "levels of 255 from one px to the next"
    assert np.abs(change[border].mean()) < 3, "the light is matched"


def test_the_colours_of_a_large_face_are_matched_as_those_of_a_small_one():
    """Computed on a reduced copy: the same light is matched, and a face of 1,500 px takes a second, not minutes."""
    for side in (200, 1600):
        old = np.tile(np.linspace(60, 180, side, dtype=np.float32)[None, :, None], (side, 1, 3))
        row = {"center_x": side / 2, "center_y": side / 2, "face_width": side / 2, "face_height": side / 2, "roll": 0}
        mask = head_mask((side, side), row, FRAMING)
        new = np.clip(old + 30, 0, 255)
        change = np.abs(matched(new, old, mask) - old)[mask > 0]
        assert change.mean() < 1 and change.max() < 6, side


def test_a_head_at_the_edge_of_the_picture_is_redrawn_within_the_picture(portrait, detector):
    wall = on_wall(portrait, 300, 600, 800)
    photo = wall[180:, 330:]  # cut through the hair
    face = only_face(detector, photo)
    new = with_face_redrawn(photo, face, FRAMING, SIDE, lambda cut, mask: 255 - cut, fourfold)
    assert new.shape == photo.shape
    outside = head_mask(photo.shape[:2], face, FRAMING) == 0
    assert (new[outside] == photo[outside]).all() and (new != photo).any()


def test_a_redrawn_face_larger_than_the_model_draws_is_enlarged_by_the_enlarger(photo, detector):
    sizes = []

    def noted(picture: np.ndarray) -> np.ndarray:
        sizes.append(picture.shape[0])
        return fourfold(picture)

    with_face_redrawn(photo, only_face(detector, photo), FRAMING, 64, unchanged, noted)
    assert sizes == [64], "the square of about 370 px is reduced without it"


def test_the_framing_is_that_of_the_middle_training_crop():
    """Tight photos give tight crops, in which the face is large and low."""
    crops = [{"face": f"[0.5,{level},0.5,{height}]"} for height, level in ((0.64, 0.59), (0.75, 0.65), (0.67, 0.6))]
    assert framing_of(crops) == (0.67, 0.6)


@pytest.mark.parametrize("framing", [Framing(0.45, 0.48), Framing(0.67, 0.6), Framing(0.8, 0.5)])
def test_the_mask_lies_within_the_square_and_covers_the_face(photo, detector, framing):
    face = only_face(detector, photo)
    seen = {}

    def noted(cut: np.ndarray, mask: np.ndarray) -> np.ndarray:
        seen.update(mask=mask)
        return cut

    with_face_redrawn(photo, face, framing, SIDE, noted, fourfold)
    edges = np.concatenate([seen["mask"][0], seen["mask"][-1], seen["mask"][:, 0], seen["mask"][:, -1]])
    assert edges.max() < 0.1
    top, bottom = (round(SIDE * (framing.face_level + sign * 0.4 * framing.face_fraction)) for sign in (-1, 1))
    assert seen["mask"][top : bottom + 1, SIDE // 2].min() > 0.6
