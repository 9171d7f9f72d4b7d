"""The pictures for places: strangers whose faces are found, in small files."""

import numpy as np
import pytest

from likeness.faces.detection import Detector
from likeness.faces.identity import Recogniser, similarity
from likeness.photos.images import read_photo

PERSON = "people/ava/0[0-7].jpg"  # the demonstration's person, who is put into the pictures
ONE_PERSON = 0.363  # OpenCV's own threshold of SFace; a stranger above it would look like the person from the start


@pytest.fixture(scope="module")
def detector(model_files):
    return Detector(model_files)


@pytest.mark.parametrize(("name", "people"), [("meadow", 1), ("garden", 2)])
def test_every_face_is_found_and_large_enough_to_be_redrawn(root, detector, name, people):
    faces = detector.faces(read_photo(root / f"resources/places/{name}/{name}.jpg"))
    assert len(faces) == people
    assert all(180 <= face["h"] <= 220 and abs(face["yaw"]) < 15 for face in faces)


def test_the_files_are_small(root):
    sizes = [path.stat().st_size for path in (root / "resources/places").glob("*/*.jpg")]
    assert len(sizes) == 2 and max(sizes) <= 150_000


def test_nobody_is_like_the_person_who_takes_the_place(root, detector, model_files):
    recogniser = Recogniser(model_files)

    def embeddings(pattern: str) -> list[np.ndarray]:
        photos = [read_photo(path) for path in sorted((root / "resources").glob(pattern))]
        return [recogniser.embedding(photo, face) for photo in photos for face in detector.faces(photo)]

    strangers, known = embeddings("places/*/*.jpg"), embeddings(PERSON)
    assert len(strangers) == 3 and len(known) == 8
    assert max(similarity(stranger, person) for stranger in strangers for person in known) < ONE_PERSON
