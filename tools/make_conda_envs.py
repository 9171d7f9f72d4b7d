"""Write envs/likeness.yaml, envs/likeness-gpu.yaml and their post-deploy scripts from the pip lists.

The pip section of a conda file has no --no-deps. So a post-deploy script, which `snakemake --sdm conda` runs in the new
environment, installs the packages of unbundled.txt. Run this after every change of a list; a test checks it.
"""

from pathlib import Path

ENVS = Path(__file__).resolve().parent.parent / "envs"
# The version of Python with which the pinned versions were tested.
PYTHON = "3.11"


def requirements(name: str) -> list[str]:
    """The pins of a list in order, without comments. A list that it includes by -r is inserted at that line."""
    pins = []
    for line in (ENVS / name).read_text().splitlines():
        text = line.partition("#")[0].strip()
        if text.startswith("-r "):
            pins += requirements(text.removeprefix("-r ").strip())
        elif text:
            pins.append(text)
    return pins


def conda_files() -> dict[str, str]:
    """{file name in envs/: content}."""
    contents = {}
    unbundled = " ".join(requirements("unbundled.txt"))
    for name, pip_list in (("likeness", "cpu.txt"), ("likeness-gpu", "gpu.txt")):
        pins = "".join(f"      - {pin}\n" for pin in requirements(pip_list))
        contents[f"{name}.yaml"] = (
            f"# Made from {pip_list} by tools/make_conda_envs.py; change that list, not this file.\n"
            f"channels:\n  - conda-forge\n  - nodefaults\n"
            f"dependencies:\n  - python={PYTHON}\n  - pip\n  - pip:\n{pins}"
        )
        contents[f"{name}.post-deploy.sh"] = (
            "#!/bin/sh\n"
            "# Made from unbundled.txt by tools/make_conda_envs.py; change that list, not this file.\n"
            f"python -m pip install --no-deps --no-build-isolation {unbundled}\n"
        )
    return contents


if __name__ == "__main__":
    for name, content in conda_files().items():
        (ENVS / name).write_text(content)
