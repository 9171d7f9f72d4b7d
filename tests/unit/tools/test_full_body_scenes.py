"""The benchmark's scenes: the same at each call, with small faces that are found, and with no others."""

import pytest

from bench_faces import matched
from full_body_scenes import FACE_HEIGHTS, HEIGHT, SCENES, SECOND_PERSON_EVERY, WIDTH, scene, scenes
from likeness.faces.detection import Detector


@pytest.fixture(scope="module")
def pictures():
    return list(scenes())


@pytest.mark.parametrize("number", [0, 3])
def test_a_scene_has_the_same_pixels_at_each_call(pictures, number):
    once, again = pictures[number], scene(number)
    assert once.image.shape == (HEIGHT, WIDTH, 3)
    assert once.image.tobytes() == again.image.tobytes()
    assert once.boxes == again.boxes


def test_the_detector_finds_the_people_and_nobody_else(pictures, model_files):
    detector, without_fault = Detector(model_files), 0
    for number, (image, boxes) in enumerate(pictures):
        assert len(boxes) == (2 if number % SECOND_PERSON_EVERY == SECOND_PERSON_EVERY - 1 else 1)
        found = [tuple(face[key] for key in "xywh") for face in detector.faces(image)]
        without_fault += len(matched(boxes, found)) == len(boxes) == len(found)
    assert without_fault >= SCENES - 1


def test_the_first_face_is_the_larger_one_and_all_sizes_occur(pictures):
    for _, (first, *others) in pictures:
        assert all(other[3] < first[3] for other in others)
    heights = sorted(boxes[0][3] for _, boxes in pictures)
    smallest, largest = FACE_HEIGHTS
    assert smallest - 1 <= heights[0] <= 50 and 90 <= heights[-1] <= 1.1 * largest
