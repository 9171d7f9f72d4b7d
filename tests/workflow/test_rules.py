"""The house rules, checked on the files: what a script reads is what its rule lists, and style is clean."""

import ast
import re
import subprocess
import sys
from modulefinder import ModuleFinder
from pathlib import Path

import pytest

from likeness.config.sections import Config
from likeness.core.provenance import SCRIPTS, code_digest, local_sources
from project import ROOT, Project

RULES = {
    name: body
    for file in sorted((ROOT / "rules").glob("*.smk"))
    for name, body in re.findall(r"^(?:rule|checkpoint) (\w+):\n((?:    .*\n|\n)+)", file.read_text(), re.M)
}
BY_HAND = {"import_kohya"}  # a person starts them, no rule
PROGRAMS = sorted({path.stem for path in SCRIPTS.glob("*.py")} - BY_HAND)


def listed(rule: str) -> set[str]:
    """The configuration keys that a rule hands to its script."""
    call = re.search(r"config=section\((.*?)\)", RULES[rule], re.S)
    return set(re.findall(r'"([\w.]+)"', call[1])) if call else set()


def read(program: str) -> set[str]:
    """The configuration keys that a script reads, as far down as it names them: "train.rank", or "train" as a whole."""
    keys = set()
    for node in ast.walk(ast.parse((SCRIPTS / f"{program}.py").read_text())):
        chain, inner = [], node
        while isinstance(inner, ast.Attribute):
            chain.insert(0, inner.attr)
            inner = inner.value
        if isinstance(inner, ast.Name) and ([inner.id, *chain][:2] == ["args", "config"]) and len(chain) > 1:
            keys.add(".".join(chain[1:3]))
    return {key for key in keys if not any(other.startswith(f"{key}.") for other in keys)}


def test_every_rule_has_its_script_and_its_log_by_one_name():
    assert sorted(RULES) == PROGRAMS
    for name, body in RULES.items():
        assert f'code("{name}.py")' in body
        assert re.search(rf"results/logs/.*\b{name}(-?\{{\w+\}})*\.log", body), name


# Of a rule's inputs, those that another rule makes (where they are a function of the wildcards).
MADE = {
    *("bases_of_its_family", "trained_base", "drawing_base", "portrait_base", "latents", "captioner", "clip"),
    *("class_pictures", "sampled_epochs", "sampled_epochs_of_all_runs", "trained_models"),
    *("crops_of_place", "choices_of_place", "loras_of_place", "drawn_places", "drawn_scenes"),
}


@pytest.mark.parametrize("rule", sorted(RULES))
def test_what_a_rule_compares_by_content_is_all_that_no_rule_makes(rule):
    inputs = re.search(r"    input:\n((?:        .*\n)+)", RULES[rule])[1]
    named = re.search(r"        contents=contents\(([^)]*)\)", RULES[rule])[1].replace("\n", " ")
    functions = set(re.findall(r"^        \w+=([a-z_]+),$", inputs, re.M))
    assert {part.strip() for part in named.split(",") if part.strip()} == {f'"{rule}.py"', *(functions - MADE)}


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_script_reads_no_key_that_its_rule_does_not_list(program):
    handed = listed(program)
    sections = {key.split(".")[0] for key in handed}  # a section as a whole is just what the rule handed of it
    for key in read(program):
        known = handed | sections if "." not in key else handed
        assert key in known or key.split(".")[0] in handed, f"{program} reads {key}, its rule lists {handed}"


@pytest.mark.parametrize("rule", sorted(RULES))
def test_a_rule_lists_only_keys_that_there_are(rule):
    sections = Config.model_fields
    given_by_rule = {"subject", "subject_name", "run_name", "epoch", "flips", "token_lengths"}
    given_by_rule |= {"scene", "scene_name", "place", "place_name", "people", "keep"}
    given_by_rule |= {"decisions", "by_hand", "folders", "every_epoch", "project"}
    for key in listed(rule):
        assert key.split(".")[0] in {*sections, *given_by_rule}, key


@pytest.mark.parametrize("program", PROGRAMS)
def test_code_lists_every_local_import(program):
    """Against the standard library's own finder of imports."""
    finder = ModuleFinder(path=[str(SCRIPTS)])
    finder.run_script(str(SCRIPTS / f"{program}.py"))
    found = {Path(module.__file__) for module in finder.modules.values() if module.__file__}
    assert found <= set(local_sources(SCRIPTS / f"{program}.py"))


def test_a_template_beside_its_module_counts_as_code():
    assert SCRIPTS / "likeness/report/template.html.j2" in local_sources(SCRIPTS / "build_report.py")


def test_a_module_is_read_once_for_all_programs_behind_which_it_is():
    """Every Snakemake reads them, and a cluster starts two for each job."""
    read_in_all = """
import pathlib, sys
from likeness.core.provenance import SCRIPTS, local_sources
sys.addaudithook(lambda event, of: event == "open" and str(of[0]).startswith(str(SCRIPTS)) and print(of[0]))
for program in SCRIPTS.glob("*.py"):
    local_sources(program)
"""
    done = subprocess.run(
        [sys.executable, "-B", "-c", read_in_all], cwd=SCRIPTS, check=True, capture_output=True, text=True
    )
    files = [file for file in done.stdout.splitlines() if file.endswith(".py")]
    assert str(SCRIPTS / "likeness/core/cli.py") in files and len(files) == len(set(files))


@pytest.mark.parametrize("program", sorted(BY_HAND))
def test_a_program_that_a_person_starts_is_no_rules_and_says_how(program):
    done = subprocess.run([sys.executable, SCRIPTS / f"{program}.py", "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and f"usage: {program}.py" in done.stdout
    assert not [name for name, body in RULES.items() if f"{program}.py" in body]


def test_only_the_workflow_reads_the_configurations_room():
    """Else a new key would be new code to every script, and everything would run again."""
    for program in PROGRAMS:
        sources = local_sources(SCRIPTS / f"{program}.py")
        assert not [path for path in sources if path.parent == SCRIPTS / "likeness/config"], program


def test_another_rule_of_choosing_measures_no_picture_again():
    choosing = SCRIPTS / "likeness/choosing/selection.py"
    assert choosing in local_sources(SCRIPTS / "choose_checkpoint.py")
    assert choosing not in local_sources(SCRIPTS / "score_checkpoint.py")


def test_messages_are_not_part_of_what_a_training_is_known_by(tmp_path):
    assert SCRIPTS / "likeness/core/cli.py" in local_sources(SCRIPTS / "train_lora.py")
    assert len(code_digest(SCRIPTS / "train_lora.py")) == 64


def planned(project: Project) -> dict[str, int]:
    """rule -> how many jobs a dry run says it has."""
    found = re.findall(r"^(\w+) +(\d+)$", project.run("-n").text, re.M)
    return {rule: int(number) for rule, number in found}


def test_epochs_that_follow_from_the_photos_are_planned_when_these_are_known(tmp_path, model_files, small_base):
    project = Project(tmp_path / "project", model_files, small_base)
    assert planned(project)["sample_checkpoint"] == 3, "the base model and 2 epochs, before anything has run"
    project.configure(train={"epochs": None, "repeats": 2, "max_train_steps": 14, "save_every_n_epochs": 2})
    assert "sample_checkpoint" not in planned(project)
    assert project.run("results/ava/dataset.json").jobs["build_dataset"] == 1
    # 5 photos shown twice, 2 at a time, are 5 steps per epoch: 3 epochs, of which the second and the last are saved.
    assert planned(project)["sample_checkpoint"] == 3
    project.configure(train={"epochs": None, "repeats": 2, "max_train_steps": 22, "save_every_n_epochs": 2})
    assert planned(project)["build_dataset"] == 1


def test_runs_are_compared_where_there_are_several(tmp_path, model_files, small_base):
    project = Project(tmp_path / "project", model_files, small_base)
    assert "compare_runs" not in planned(project)
    project.configure(runs={"portrait": {}, "strong": {"train": {"rank": 16, "alpha": 16}}})
    assert planned(project)["compare_runs"] == 1


@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "check"],
        ["ruff", "format", "--check"],
        ["snakefmt", "--check", "Snakefile", "rules"],
        ["snakemake", "--lint"],
    ],
    ids=" ".join,
)
def test_style_is_clean(command):
    program = Path(sys.executable).parent / command[0]
    done = subprocess.run([program, *command[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
