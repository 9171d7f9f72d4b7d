"""decisions.yaml: what a person decides reaches the rules, and every mistake in it is a line."""

from pathlib import Path

import pytest

from likeness.config.checks import checked_config
from likeness.core.errors import LikenessError
from project import CONFIG


def ava(roots: list[Path], text: str | None, **subject) -> dict:
    """The checked decisions, with these beside the photos."""
    if text is not None:
        (roots[0] / "photos/decisions.yaml").write_text(text)
    subjects = {"ava": CONFIG["subjects"]["ava"] | subject}
    return checked_config(CONFIG | {"subjects": subjects}, roots)["decisions"]["ava"]


def problems(roots: list[Path], text: str) -> list[str]:
    with pytest.raises(LikenessError) as error:
        ava(roots, text)
    header, *lines = str(error.value).splitlines()
    assert header == "config:" and lines[0].startswith("  subjects.ava.decisions: ")
    return [line.partition("decisions.yaml: ")[2] for line in lines]


@pytest.mark.parametrize("text", [None, "", "photos:\n", "{}"])
def test_without_decisions_the_program_decides(roots, text):
    decided = ava(roots, text)
    assert decided["photos"] == decided["captions"] == decided["choices"] == {}


def test_what_is_decided_is_handed_to_the_rules_that_it_concerns(roots):
    (roots[0] / "photos/b.JPG").touch()
    decided = ava(
        roots,
        """
        photos:
          a.jpg: {keep: blurred, crop: [300, 200.5, 400], rotation: -3, caption: "ohwx woman, on a  boat"}
          B.jpg: {caption: ohwx woman}
        runs:
          portrait: {epoch: 3, weight: 0.5}
        """,
    )
    assert decided["photos"] == {
        "a.jpg": {"use": None, "keep": ["blurred"], "face": None, "crop": (300.0, 200.5, 400), "rotation": -3.0}
    }
    assert decided["captions"] == {"a.jpg": "ohwx woman, on a boat", "b.JPG": "ohwx woman"}
    assert decided["choices"] == {"portrait": {"epoch": 3, "weight": 0.5}}


def test_the_file_may_be_elsewhere(roots):
    (roots[0] / "ava.yaml").write_text("photos: {a.jpg: {use: heldout}}")
    decided = ava(roots, "photos: {a.jpg: {use: drop}}", decisions="ava.yaml")
    assert decided["photos"]["a.jpg"]["use"] == "heldout"
    with pytest.raises(LikenessError, match=r"subjects\.ava\.decisions: no file 'gone\.yaml'"):
        ava(roots, None, decisions="gone.yaml")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("photos: {gone.jpg: {use: drop}}", "photos.gone.jpg: no photo of this name; expected names of files in the"),
        ("photos: {a.jpg: {use: drop}, A.jpg: {use: train}}", "photos.A.jpg: is decided twice"),
        ("photos: {a.jpg: {keep: no_face}}", "photos.a.jpg.keep.0: found 'no_face'; expected 'several_faces',"),
        ("photos: {a.jpg: {use: keep}}", "photos.a.jpg.use: found 'keep'; expected 'drop', 'train' or 'heldout'"),
        ("photos: {a.jpg: {use: drop, caption: a}}", "photos.a.jpg: use: drop leaves the photo out, so"),
        ("photos: {a.jpg: {crop: [1, 2]}}", "photos.a.jpg.crop.2: missing; expected a value"),
        ("photos: {a.jpg: {crop: [1, 2, 3]}}", "photos.a.jpg.crop.2: found 3; expected greater than or equal to 16"),
        ("photos: {a.jpg: {face: left}}", "photos.a.jpg.face: found 'left'; expected largest, a number counted from"),
        ("photos: {a.jpg: {captoin: a}}", "photos.a.jpg.captoin: unknown key; did you mean caption?"),
        ("photos: {a.jpg: {caption: ''}}", "photos.a.jpg: the caption is empty"),
        ("runs: {protrait: {epoch: 1, weight: 1}}", "runs.protrait: no run of this name; expected one of portrait"),
        ("runs: {portrait: {epoch: 1, weight: 0.7}}", "runs.portrait.weight: nothing is drawn at 0.7; expected one of"),
        ("runs: {portrait: {epoch: 1}}", "runs.portrait.weight: missing; expected a value"),
        ("photo: {}", "photo: unknown key; did you mean photos?"),
    ],
)
def test_a_mistake_is_a_line_with_the_keys_path(roots, text, found):
    (line,) = problems(roots, text)
    assert line.startswith(found)


def test_a_file_that_cannot_be_read_is_named_with_the_line(roots):
    with pytest.raises(LikenessError, match=r"photos/decisions\.yaml, line 2: "):
        ava(roots, "photos:\n\ta.jpg: {}\n")
