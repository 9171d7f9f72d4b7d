# Functions that give rules their settings, their code and long lists; and the setup of the whole workflow.
import atexit
import hashlib
import os
import shlex
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

from snakemake.exceptions import WorkflowError

SCRIPTS = HERE / "scripts"

from likeness.photos.caption_files import by_photo, caption_files, no_captions
from likeness.config.checks import checked_config
from likeness.config.sections import GENERATE
from likeness.config.advice import advice
from likeness.core.cli import last_error
from likeness.core.contents import Contents
from likeness.training.schedule import saved_epochs, schedule, sizes
from likeness.core.devices import gpu_ids
from likeness.core.errors import LikenessError
from likeness.core.files import (
    GROUP_UMASK,
    OWNER_UMASK,
    check_space,
    join_paths,
    private_folder,
    remove,
    write_atomic,
)
from likeness.choosing.installation import missing
from likeness.core.manifests import read_json, read_table
from likeness.photos.file_kinds import unreadable_entries, photo_files
from likeness.core.provenance import canonical, local_sources
from likeness.report.ending import RunResult, closing_lines

# `python` in a rule is the Python that runs Snakemake, also if its environment is not activated. With --sdm conda the
# Python of the rule's environment comes before it.
# The hub's libraries are switched offline and send no usage data. Only the rules fetch_* may contact the hub
# (HUB_OFFLINE), unless the user forbade it. All other rules must run without a network.
os.environ.setdefault(
    "HUB_OFFLINE",
    os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or "0",
)
os.environ.update(
    PATH=f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}",
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_HUB_OFFLINE="1",
    DO_NOT_TRACK="1",
)

# The folders in which relative paths of config.yaml are searched, in this order.
ROOTS = [Path("."), Path(os.path.relpath(HERE))]

ON_CLUSTER = limit("_nodes") is not None
for folder in (os.getcwd(), str(HERE)) if ON_CLUSTER else ():
    if set("'\\") & set(folder):
        raise WorkflowError(
            f"the name of the folder {folder} contains ' or \\; Snakemake cannot pass it to a cluster's jobs; rename it"
        )
# The number of cores; None on a cluster and with --report.
CORES = None if ON_CLUSTER else limit("_cores")

# Threads of a job that works on many photos at once. Most nodes of a cluster can give a job 8.
ALL_CORES = CORES or 8

# `gpu=1` on a rule limits nothing until the number of GPUs is set. Without a GPU the number is 1 too, because the heavy
# jobs slow each other down on one CPU. A profile or --resources gpu=... overrides it. On a cluster the queue decides.
GPUS_HERE = [] if ON_CLUSTER else gpu_ids()
GPUS = limit("gpu", default=max(1, len(GPUS_HERE))) if CORES else 1

# Threads of a job that needs one GPU. Several such jobs may run at once, and torch uses as many cores as `threads`.
CORES_PER_GPU = max(1, ALL_CORES // max(1, GPUS))

raw_config = config
try:
    config = checked_config(config, ROOTS, within_job=not workflow.is_main_process)
except (LikenessError, OSError) as mistakes:
    raise WorkflowError(str(mistakes)) from None
# From here on every file that Snakemake and its jobs write may be a portrait or made from one, so access is limited.
os.umask(GROUP_UMASK if config["share_with_group"] else OWNER_UMASK)
if config["share_with_group"]:
    for folder in map(Path, (".snakemake", ".snakemake/log", "results")):
        # The folder may be older than the umask above. If another member of the group owns it, chmod fails, and that
        # member has opened the folder already.
        with suppress(OSError):
            folder.chmod(folder.stat().st_mode | 0o070)
if workflow.is_main_process and not workflow.dryrun:
    try:
        check_space([Path(), Path("results"), Path("results/.cache")])
    except LikenessError as full:
        raise WorkflowError(str(full)) from None
if workflow.is_main_process:
    for sentence in advice(raw_config, config, ROOTS, None if GPUS_HERE else CORES):
        logger.warning(f"config: {sentence}")


# A pattern for a wildcard without any value: it matches nothing.
NO_NAME = "(?!)"


wildcard_constraints:
    subject="|".join(config["subjects"]),
    run="|".join(config["runs"]),
    base=f"(?:{'|'.join(config['bases'])})",  # that of the top level is empty
    skip=r"|-clip_skip\d+",  # empty: the clip_skip of the top level
    epoch=r"\d{6}",
    scene="|".join(config["portraits"]["scenes"]) or NO_NAME,
    place="|".join(config["places"]) or NO_NAME,


# Keys of a scene or place on which no drawn pixel depends.
NOT_DRAWN = ("keep", "consent", "pictures", "faces")

# How many pictures of each scene and place are shown first.
KEPT = {
    "scene": {
        name: scene["keep"] for name, scene in config["portraits"]["scenes"].items()
    },
    "place": {name: place["keep"] for name, place in config["places"].items()},
}

# Bytes. Longer settings (hundreds of prompts, or a few very long ones) are passed in a file.
LONGEST_IN_COMMAND = 50_000


def section(*names):
    """A param with the settings `names` as JSON. If the JSON is long: @ and the path of a file that holds it."""
    text_of = settings(*names)

    def param(wildcards):
        text = text_of(wildcards)
        is_long = len(shlex.quote(text).encode()) > LONGEST_IN_COMMAND
        return f"@{text_file(text)}" if is_long else text

    return param


def settings(*names):
    """A function of the wildcards that gives canonical JSON of only the keys in `names` ("train", "train.rank",
    "subject").

    A rule has one text with all its settings, because Snakemake compares params as a set of values. If rank and alpha
    swap their values, it would see no change. If the rule has a {run} wildcard, the run's overrides apply. A rule with
    a {base} wildcard gets the keys of that base model.
    """

    def text(wildcards):
        # Pictures and captions are encoded once for all runs, so these two settings are joined over all runs.
        trains = [run["train"] for run in config["runs"].values()]
        flips = any(train["flip_aug"] for train in trains)
        lengths = sorted({train["max_token_length"] for train in trains})
        known = config | {"flips": flips, "token_lengths": lengths}
        if "subject" in wildcards.keys():
            subject = config["subjects"][wildcards.subject]
            known |= {"subject": subject, "subject_name": wildcards.subject}
            known["decisions"] = config["decisions"][wildcards.subject]
        if "run" in wildcards.keys():
            known |= config["runs"][wildcards.run] | {"run_name": wildcards.run}
            known |= installation(wildcards.run) | {"keep": KEPT}
        if {"subject", "run"} <= set(wildcards.keys()):
            known["by_hand"] = known["decisions"]["choices"].get(wildcards.run)
        if "scene" in wildcards.keys():
            scene = config["portraits"]["scenes"][wildcards.scene]
            known |= {
                "scene": as_sampled(scene, known["sample"]),
                "scene_name": wildcards.scene,
            }
        if "place" in wildcards.keys():
            place = config["places"][wildcards.place]
            known |= {
                "place": as_sampled(place, known["sample"]),
                "place_name": wildcards.place,
            }
            known["people"] = people_of_place(wildcards)
        if "base" in wildcards.keys():
            known |= config["bases"][wildcards.base]
        if "skip" in wildcards.keys() and wildcards.skip:
            known["clip_skip"] = int(wildcards.skip.removeprefix("-clip_skip"))
        if "epoch" in wildcards.keys():
            known["epoch"] = int(wildcards.epoch)
        chosen = {}
        for name in names:
            top, _, key = name.partition(".")
            if key:
                chosen.setdefault(top, {})[key] = known[top][key]
            else:
                chosen[top] = known[top]
        # `snakemake --report` writes params into a <script> element, and a prompt may contain </script>.
        return canonical(chosen).replace("<", "\\u003c")

    return text


def installation(run):
    """Where a run's LoRA is copied to, from which project, and whether every epoch is."""
    return {
        "folders": config["install"]["folders"],
        "every_epoch": config["install"]["every_epoch"] == run,
        "project": os.getcwd(),
    }


def as_sampled(drawing, sample):
    """The settings of a scene or place. Keys that are left empty, and the batch size, are those of the run's `sample`.
    What only the ranking reads is left out."""
    keys = ("negative_prompt", "sampler", "steps", "guidance_scale")
    filled = {key: sample[key] for key in keys if drawing[key] is None}
    drawn = {key: value for key, value in drawing.items() if key not in NOT_DRAWN}
    return drawn | filled | {"batch_size": sample["batch_size"]}


def text_file_param(text_of):
    """A param: the path of a file that holds the text `text_of(wildcards)`. It is for texts that grow with the photos,
    subjects or runs, because a command has at most 128 KB.

    Snakemake does not compare a param that is made from `input`. Here that is intended: each text is also compared as
    an input or as another param.
    """
    return lambda wildcards, input: text_file(text_of(wildcards))


def input_list(name):
    """A param: the path of a file that lists the paths of the input `name`."""
    return lambda wildcards, input: text_file(join_paths(input.get(name)))


def path_list(paths):
    """A param: the path of a file that lists the paths `paths(wildcards)`."""
    return text_file_param(lambda wildcards: join_paths(paths(wildcards)))


def text_file(text):
    """Write a file that holds `text` and is named by its hash; return its path. A dry run writes nothing."""
    path = Path("results/.cache/in_files") / hashlib.sha256(text.encode()).hexdigest()
    whole = path.is_file() and path.read_bytes() == text.encode()
    if not whole and not workflow.dryrun:
        private_folder(path.parent)
        remove(path)
        write_atomic(path, text)
    return path


def folder_of(name):
    """A param: the folder of the input `name`. It is not a constant, because a workflow that uses this one as a module
    may give results/ a prefix."""
    return lambda wildcards, input: os.path.dirname(input.get(name))


def folder_of_output(wildcards, output):
    return os.path.dirname(output[0])


def scaled_by_attempt(amount, per=lambda wildcards: 1):
    """A resource that grows with each attempt, because the job may have failed for lack of it: `amount`, then twice and
    three times `amount`.

    `per(wildcards)` is a further factor (the number of GPUs of a training).
    """
    return lambda wildcards, attempt: amount * per(wildcards) * attempt


def source_files(files):
    """Mark files that no job makes, so that the prefix of a module is not put before their paths."""
    return [local(str(file)) for file in files]


def code(script):
    """A script and all local modules that it imports, as inputs. Snakemake compares them by content, so a touch or a
    checkout reruns nothing."""
    return source_files(
        os.path.relpath(path) for path in local_sources(SCRIPTS / script)
    )


# The hashes of the user's files and of the code. The main process stores them; the jobs of a cluster read the store.
CONTENTS = Contents(Path(".snakemake/likeness_contents.json"))
if workflow.is_main_process:
    atexit.register(CONTENTS.save)


def contents(script, *sources):
    """A param: the hash of a rule's code and of those inputs that no job makes (photos, captions, models). `sources`
    are functions of the wildcards that give these inputs.

    Snakemake compares files by content only if their dates are newer. The user's files may come from an archive with
    any dates, so their hash is a param. Snakemake does not compare a param that is made from `input`, so the rule names
    these inputs a second time.
    """
    code_hash = CONTENTS.fingerprint(
        map(Path, code(script))
    )  # computed once, not for each job

    def fingerprint(wildcards):
        files = []
        for source in sources:
            paths = source(wildcards)
            files += [paths] if isinstance(paths, (str, Path)) else paths
        return f"{code_hash} {CONTENTS.fingerprint(map(Path, files))}"

    return fingerprint if sources else code_hash


STARTED = time.time()
RUNS = [(subject, run) for subject in config["subjects"] for run in config["runs"]]


def say_at_the_end(errors):
    """Print, below everything that Snakemake prints, what became of the runs of this call. `errors` are those of
    errors_of_runs. A module says nothing."""
    if IS_MODULE:
        return
    results = []
    for subject, run in RUNS:
        folder = Path("results", subject, run)
        page = folder / "report.html"
        finished = page.is_file() and page.stat().st_mtime >= STARTED
        error = errors.get((subject, run), "")
        results.append(RunResult(subject, run, folder / "best", finished, error))
    lines = closing_lines(results, time.time() - STARTED)
    atexit.register(lambda: print(*lines, sep="\n", file=sys.stderr, flush=True))


def errors_of_runs():
    """{(subject, run): the error of the run in this call, or of what it needs; "" where there is none}."""
    errors = {}
    for subject, run in RUNS:
        folders = (
            Path("results/logs"),
            Path("results/logs", subject),
            Path("results/logs", subject, run),
        )
        logs = [log for folder in folders for log in folder.glob("*.log")]
        errors[subject, run] = last_error(logs, since=STARTED)
    return errors


def write_partial_index(errors):
    """After a failed job, write results/index.html with the finished runs, and with the error of each other run
    (`errors`, those of errors_of_runs).

    The page is dated before the choices that it shows, and the record of an earlier page is removed, so that the next
    call of Snakemake writes it again.
    """
    best = {
        (subject, run): Path(f"results/{subject}/{run}/best") for subject, run in RUNS
    }
    finished = [key for key in RUNS if (best[key] / "choice.json").is_file()]
    if IS_MODULE or not finished:
        return
    unfinished = {}
    for (subject, run), why in errors.items():
        if why or (subject, run) not in finished:  # a choice may be there from before
            unfinished.setdefault(subject, {})[run] = why
    page = Path("results/index.html")
    arguments = {"--log": ["results/logs/build_index.log"], "--page": [page]}
    arguments["--config"] = [
        canonical({"subjects": config["subjects"], "unfinished": unfinished})
    ]
    arguments["--choices"] = [best[key] / "choice.json" for key in finished]
    arguments["--previews"] = [best[key] / f"{'_'.join(key)}.png" for key in finished]
    pages = [best[key].with_name("portraits.html") for key in finished]
    arguments["--galleries"] = [page for page in pages if page.is_file()]
    words = [word for name, values in arguments.items() for word in (name, *values)]
    subprocess.run([sys.executable, SCRIPTS / "build_index.py", *words])
    oldest = min(path.stat().st_mtime for path in arguments["--choices"])
    if page.is_file():
        os.utime(page, (oldest - 1, oldest - 1))
        forget_job(page)
