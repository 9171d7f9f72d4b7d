"""The rooms of scripts/likeness: who may read whom. docs/architecture.md draws them."""

from collections import Counter
from graphlib import TopologicalSorter
from pathlib import Path

from likeness.core.provenance import SCRIPTS, imported_files
from project import ROOT

LIBRARY = SCRIPTS / "likeness"
MODULES = {path for path in LIBRARY.rglob("*.py") if path.name != "__init__.py"}
# room -> the rooms that it imports. A new arrow is a decision: it is written here, and drawn in docs/architecture.md.
ARROWS = {
    "core": set(),
    "photos": {"core"},
    "models": {"core"},
    "faces": {"core", "photos"},
    "captions": {"core", "models", "faces"},
    "training": {"core", "models"},
    "drawing": {"core", "models", "faces"},
    "choosing": {"core", "models", "faces", "drawing"},
    "portraits": {"core", "photos", "models", "faces", "drawing", "choosing"},
    "config": {"core", "photos", "models", "captions", "training"},
    "kohya": {"core", "photos", "captions", "training", "config"},
    "report": {"core", "photos", "faces", "captions", "training", "drawing", "choosing"},
}


def room(module: Path) -> str:
    return module.relative_to(LIBRARY).parts[0]


def test_a_room_imports_the_rooms_that_it_may_and_no_other():
    found = {name: set() for name in ARROWS}
    for module in MODULES:
        found[room(module)] |= {room(other) for other in MODULES.intersection(imported_files(module))} - {room(module)}
    assert found == ARROWS


def test_no_modules_and_no_rooms_import_each_other_in_a_circle():
    TopologicalSorter({module: MODULES.intersection(imported_files(module)) for module in MODULES}).prepare()
    TopologicalSorter(ARROWS).prepare()


def test_no_module_has_the_name_of_another_or_of_a_room():
    names = Counter([module.stem for module in MODULES] + [*ARROWS])
    assert [name for name, count in names.items() if count > 1] == []


def test_no_file_is_longer_than_a_person_keeps_in_mind():
    folders = ("scripts", "rules", "tests", "tools")
    files = [
        path for folder in folders for ending in ("py", "smk", "js") for path in (ROOT / folder).rglob(f"*.{ending}")
    ]
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in files}
    assert [name for name, length in lengths.items() if length > 400] == []
