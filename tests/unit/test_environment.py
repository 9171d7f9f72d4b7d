"""One list of pins for everybody: what is installed, what conda gets, and what the code imports all agree with it."""

import ast
import importlib.util
import subprocess
import sys
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


@pytest.fixture(scope="module")
def conda(root):
    """tools/make_conda_envs.py as a module."""
    spec = importlib.util.spec_from_file_location("make_conda_envs", root / "tools/make_conda_envs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pins(conda, *names: str) -> dict[str, str]:
    """{package: version} of pip lists; every requirement must be exact."""
    versions = {}
    for text in (text for name in names for text in conda.requirements(name)):
        requirement = Requirement(text)
        (specifier,) = requirement.specifier
        assert specifier.operator == "==", f"{text}: not an exact pin"
        versions[canonicalize_name(requirement.name)] = specifier.version
    return versions


def test_conda_files_are_made_from_the_pip_lists(root, conda):
    for name, content in conda.conda_files().items():
        assert (root / "envs" / name).read_text() == content, "run tools/make_conda_envs.py"


@pytest.mark.parametrize(("name", "pip_list"), [("likeness", "cpu.txt"), ("likeness-gpu", "gpu.txt")])
def test_conda_environment_holds_the_same_pins(root, conda, name, pip_list):
    environment = yaml.safe_load((root / f"envs/{name}.yaml").read_text())
    (pip,) = (entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    # The name that Snakemake looks for: run in the new environment after conda made it.
    after = (root / f"envs/{name}.post-deploy.sh").read_text().split()
    assert sorted([*pip, *(word for word in after if "==" in word)]) == sorted(
        [*conda.requirements(pip_list), *conda.requirements("unbundled.txt")]
    )
    assert "--no-deps" in after


def test_what_is_installed_is_what_is_pinned(conda):
    # A GPU's environment has another torch and more packages; the rest is the same.
    torch_list = "gpu.txt" if importlib.util.find_spec("xformers") else "cpu.txt"
    expected = pins(conda, torch_list, "unbundled.txt", "test.txt")
    # A local part (+cpu) says who built it, not what it is.
    found = {name: version(name).partition("+")[0] for name in expected}
    assert found == expected


def test_packages_fit_together():
    """pip's own check. What realesrgan and basicsr declare beyond what they need is left out on purpose."""
    check = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True)
    problems = [line for line in check.stdout.splitlines() if line != "No broken requirements found."]
    assert [line for line in problems if not line.startswith(("realesrgan ", "basicsr "))] == []


def test_everything_that_is_imported_is_pinned(root, conda):
    """A package that only comes along with another may leave with its next version."""
    expected = pins(conda, "gpu.txt", "unbundled.txt", "test.txt", "generator.txt")
    # dlib-bin's wheel does not say what is in it; scikit-learn is in the generator's environment only.
    distributions = {"dlib": ["dlib-bin"], "sklearn": ["scikit-learn"], **packages_distributions()}
    sources = [path for folder in ("scripts", "tests", "tools") for path in (root / folder).rglob("*.py")]
    own = {path.stem for path in sources} | {"likeness"}
    names = {name for path in sources for name in imported(path)} - own - set(sys.stdlib_module_names)
    unpinned = {
        name for name in names if not any(canonicalize_name(d) in expected for d in distributions.get(name, [name]))
    }
    assert unpinned == set()


def imported(path: Path) -> set[str]:
    """Top-level names of the packages that a file imports, also inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.partition(".")[0])
    return names


def test_basicsr_can_be_built_on_later_pythons(root):
    """Its setup.py calls exec() in a function and takes the result from locals(), which ended with Python 3.13."""
    setup = "def version():\n exec('found = 1')\n return locals()['found']\nprint(version())\nprint(eval('1 + 1'))"
    built = subprocess.run(
        [sys.executable, "-c", setup], env={"PYTHONPATH": str(root / "envs/pep667")}, capture_output=True, text=True
    )
    assert built.stdout.split() == ["1", "2"]
