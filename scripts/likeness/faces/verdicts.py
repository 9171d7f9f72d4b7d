"""The verdict on one photo: whether it shows the subject well enough, and what a person decided about it.

The faces of a photo are rows of faces.tsv, to which `subject.compare_with_subject` has added `similarity` and `rival`.
A decision is an entry of decisions.yaml: `use`, `keep`, `face`, `crop` and `rotation`.
"""

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType, SimpleNamespace
from typing import Any, NamedTuple

from likeness.core.errors import LikenessError
from likeness.core.provenance import canonical
from likeness.faces.crops import TIGHTEST_FACE_FRACTION, crop_box
from likeness.faces.faces_of_picture import face_at
from likeness.faces.flaws import flaw_of
from likeness.faces.subject import BYSTANDER

# If two faces of one photo are both similar to the subject, one is the subject and the other a relative if their
# similarities differ by at least this. Otherwise (a mirror, a collage, a twin) nobody can tell.
CLEARLY_MORE_ALIKE = 0.15
MAX_SHARED = 0.25  # of another face in the tightest crop: an ear or a cheek, not eyes
# A photo about which nobody decided anything.
DECIDED_NOTHING: Mapping[str, Any] = MappingProxyType(
    {"use": None, "keep": (), "face": None, "crop": None, "rotation": None}
)


class Verdict(NamedTuple):
    """The result for one photo: the subject's face (or the most similar one; None without faces), why the photo is
    dropped (empty if it is kept), and a sentence."""

    face: dict[str, Any] | None
    reason: str
    detail: str


def crop_by_hand(decision: Mapping[str, Any]) -> str:
    """JSON of the crop [x, y, side] and of its rotation, each of which may be null; empty without both."""
    parts = {"crop": decision["crop"], "rotation": decision["rotation"]}
    return canonical(parts) if any(value is not None for value in parts.values()) else ""


def decided_verdict(faces: Sequence[dict[str, Any]], settings: SimpleNamespace, decision: Mapping[str, Any]) -> Verdict:
    """The verdict on a photo with a person's decision about it: every reason that is overruled is in the detail."""
    found = _verdict(faces, settings, decision)
    if decision["use"] == "drop":
        also = f"; {found.reason} too: {found.detail}" if found.reason else ""
        return Verdict(found.face, "by_hand", f"you left it out (decisions.yaml){also}")
    overruled = set(decision["keep"])
    seen: set[str] = set()
    while overruled - seen:
        without = _verdict(faces, settings, {**decision, "keep": seen})
        if without.reason not in overruled or without.reason in seen:
            break
        seen.add(without.reason)
        found = although(found, without.reason, without.detail)
    return found


def although(verdict: Verdict, reason: str, detail: str) -> Verdict:
    """The verdict on a photo that is kept although there is a reason against it."""
    kept = f"kept by you (decisions.yaml) although {reason}: {detail}"
    return verdict._replace(detail=f"{verdict.detail}; {kept}" if verdict.detail else kept)


def _verdict(faces: Sequence[dict[str, Any]], settings: SimpleNamespace, decision: Mapping[str, Any]) -> Verdict:
    """Whether one photo is kept; the faces are those of the photo, widest first. Reasons in `keep` of the decision
    are no reasons."""
    overruled = decision["keep"]
    if faces[0]["error"]:
        return Verdict(None, "unreadable", faces[0]["error"])
    if faces[0]["face"] == "":
        return Verdict(
            None, "no_face", "no face was found; choose a photo that shows the face from the front or half turned"
        )
    faces = sorted(faces, key=lambda face: -float(face["similarity"]))
    by_hand = decision["face"] is not None
    if by_hand:
        try:
            picked = face_at(sorted(faces, key=lambda face: -float(face["w"])), decision["face"])
        except LikenessError as error:
            return Verdict(faces[0], "no_face", f"decisions.yaml: the photo {error}")
        faces = [picked, *(face for face in faces if face is not picked)]
    face = faces[0] | {"others": _boxes(faces[1:])}
    alike = float(face["similarity"])
    is_subject = by_hand or "other_person" in overruled or alike >= max(settings.same_person, face["rival"])
    if not is_subject:
        return _not_the_subject(face, faces, settings, overruled)
    large = [other for other in faces[1:] if float(other["w"]) >= BYSTANDER * float(face["w"])]
    if not by_hand and "several_faces" not in overruled and (rivals := _rivals(face, large, settings)):
        numbers = " and ".join(f"{float(one['similarity']):.2f}" for one in (face, *rivals))
        detail = f"{len(rivals) + 1} faces look like the subject (similarity {numbers}); cut the photo to one of them"
        return Verdict(face, "several_faces", detail)
    flaw = flaw_of(face, settings, overruled)
    if flaw:
        return Verdict(face, *flaw)
    may_show_others = decision["crop"] is not None or "several_faces" in overruled
    tightest = face | {"others": _boxes(large)}
    if not may_show_others and crop_box(tightest, TIGHTEST_FACE_FRACTION).shared > MAX_SHARED:
        return Verdict(face, "several_faces", "another head is too close to be cut away; choose another photo")
    if by_hand and len(faces) > 1:
        return Verdict(face, "", f"{len(faces)} faces; the subject's was named by you (decisions.yaml)")
    if large:
        detail = f"{len(faces)} faces; cut to the one that is the subject's (similarity {alike:.2f})"
        return Verdict(face, "", detail)
    small = len(faces) - 1
    return Verdict(face, "", f"{small} small face{'s' * (small > 1)} in the background ignored" if small else "")


def _rivals(
    face: Mapping[str, Any], large: Sequence[dict[str, Any]], settings: SimpleNamespace
) -> list[dict[str, Any]]:
    """The other large faces that look like the subject too."""
    alike = float(face["similarity"])
    return [
        other
        for other in large
        if float(other["similarity"]) >= max(settings.same_person, other["rival"], alike - CLEARLY_MORE_ALIKE)
    ]


def _boxes(faces: Sequence[Mapping[str, Any]]) -> str:
    """The boxes of faces as JSON, for the column `others` of photos.tsv."""
    return canonical([[float(face[key]) for key in "xywh"] for face in faces])


def _not_the_subject(
    nearest: dict[str, Any], faces: Sequence[dict[str, Any]], settings: SimpleNamespace, overruled: Collection[str]
) -> Verdict:
    """The verdict on a photo without a face of the subject; `nearest` is the most similar face."""
    largest = max(faces, key=lambda face: float(face["w"]))
    flaw = flaw_of(largest, settings, overruled)
    if flaw:  # nobody can tell who it is, and the photo could not be used in any case
        return Verdict(largest, *flaw)
    alike = float(nearest["similarity"])
    who = "similarity" if len(faces) == 1 else f"of {len(faces)} faces the most alike has a similarity of"
    if alike >= settings.same_person:
        more = f"and {nearest['rival']:.2f} to somebody else who is on several photos"
        return Verdict(nearest, "other_person", f"not the same person as the rest: {who} {alike:.2f}, {more}")
    detail = f"not the same person as the rest: {who} {alike:.2f}, at least {settings.same_person:.2f} is expected"
    return Verdict(nearest, "other_person", detail)
