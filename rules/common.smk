# Functions only: how rules find their configuration, their code and their files.
import atexit
import fcntl
import hashlib
import json
import os
import shutil
import socket
from contextlib import suppress
from pathlib import Path

from snakemake.dag import DAG
from snakemake.exceptions import WorkflowError

SCRIPTS = Path(workflow.basedir) / "scripts"

from likeness.caption_files import by_photo, caption_files
from likeness.config import GENERATE, checked_config
from likeness.config_advice import advice
from likeness.contents import Contents
from likeness.dataset import saved_epochs, schedule, sizes
from likeness.devices import gpu_ids
from likeness.errors import LikenessError
from likeness.files import (
    GROUP_UMASK,
    OWNER_UMASK,
    listing,
    private_folder,
    write_atomic,
)
from likeness.photos import not_files, photo_files
from likeness.provenance import canonical, local_sources

# `python` in a rule is the one that runs Snakemake, activated or not; with --sdm conda the rule's own comes before it.
# Nothing about a run leaves the machine: libraries of the hub are told so. Only the rules that fetch ask the hub, unless
# the user forbade that too; the others run where there may be no network.
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

# Relative paths in config.yaml are looked for here, in this order.
ROOTS = [Path("."), Path(os.path.relpath(workflow.basedir))]

# None on a cluster, whose Snakemake has nodes and no cores of its own (but in a dry run), and for --report;
# workflow.cores would then be an error.
ON_CLUSTER = workflow.global_resources["_nodes"].value is not None
for place in (os.getcwd(), workflow.basedir) if ON_CLUSTER else ():
    if set("'\\") & set(place):
        raise WorkflowError(
            f"the folder {place} has a ' or \\ in its name, which Snakemake does not get into a cluster's jobs; rename it"
        )
CORES = None if ON_CLUSTER else workflow.global_resources["_cores"].value

# `gpu=1` on a rule limits nothing until somebody says how many there are. Without a GPU the heavy jobs share the CPU
# badly, so they run one at a time too. A profile or --resources gpu=... goes before this. A cluster has a queue.
GPUS_HERE = [] if ON_CLUSTER else gpu_ids()
if not ON_CLUSTER:
    workflow.global_resources.setdefault("gpu", max(1, len(GPUS_HERE)))

# For jobs that work on many photos at once. 8 is what most nodes of a cluster can spare.
ALL_CORES = CORES or 8

# For jobs that need a GPU, of which several may run at once: Snakemake lets torch use as many cores as their `threads`.
GPUS = workflow.global_resources["gpu"].value if CORES else 1
CORES_PER_GPU = max(1, ALL_CORES // max(1, GPUS))

# Subjects and runs of a --configfile are all there are: whoever names their own does not mean the demonstration's too.
# Snakemake would merge them with those of config.yaml.
config |= {
    key: value
    for key, value in workflow.config_settings.overwrite_config.items()
    if key in ("subjects", "runs")
}

written = config
try:
    config = checked_config(config, ROOTS, within_job=not workflow.is_main_process)
except LikenessError as mistakes:
    raise WorkflowError(str(mistakes)) from None
# All that Snakemake and its jobs write from here on: portraits, and what is made of them.
os.umask(GROUP_UMASK if config["share_with_group"] else OWNER_UMASK)
if config["share_with_group"]:
    for folder in map(Path, (".snakemake", ".snakemake/log", "results")):
        with suppress(OSError):  # another of the group made it, and opened it
            folder.chmod(folder.stat().st_mode | 0o070)  # it was made before this line
if workflow.is_main_process:
    for sentence in advice(written, config, ROOTS, None if GPUS_HERE else CORES):
        logger.warning(f"config: {sentence}")


def lock_of_the_living():
    """A lock that every living Snakemake of this folder shares until it ends, a dry run too.

    A killed one leaves Snakemake's own lock behind, and the next would ask for --unlock. Who gets this one alone, on the
    machine that last had it so, knows that no other is alive here, and clears what is left.
    """
    lock = None
    try:
        lock = open(".snakemake/likeness.lock", "a+")
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        lock.seek(0)
        if lock.read() == socket.gethostname():
            shutil.rmtree(".snakemake/locks", ignore_errors=True)
        # Another machine's, which may be alive: there are mounts whose locks count on one machine only.
        if not any(Path(".snakemake/locks").glob("*")):
            lock.truncate(0)
            lock.write(socket.gethostname())
            lock.flush()
    except OSError:
        # Another Snakemake works here, this user may not write here, or the file system knows no locks: then Snakemake's
        # own lock decides.
        pass
    with suppress(OSError):
        if lock:
            fcntl.flock(lock, fcntl.LOCK_SH)
    return lock


# The Snakemakes within a cluster's jobs outlive theirs, and keep out of this.
if workflow.is_main_process and Path(".snakemake").is_dir():
    living = lock_of_the_living()


wildcard_constraints:
    subject="|".join(config["subjects"]),
    run="|".join(config["runs"]),
    epoch=r"\d{6}",


def section(*names):
    """The one config param of a rule: canonical JSON of just the keys it names ("train", "train.rank", "subject").

    One text per rule, because Snakemake compares params as a set of values: rank 8 -> 16 beside alpha 16 is no change
    to it. What a run overrides is taken from the run where the rule has a {run} wildcard.
    """

    def text(wildcards):
        # Whether any run mirrors pictures, and how much of a caption each reads: they are encoded once for all runs.
        trains = [run["train"] for run in config["runs"].values()]
        flips = any(train["flip_aug"] for train in trains)
        lengths = sorted({train["max_token_length"] for train in trains})
        known = config | {"flips": flips, "token_lengths": lengths}
        if "subject" in wildcards.keys():
            subject = config["subjects"][wildcards.subject]
            known |= {"subject": subject, "subject_name": wildcards.subject}
        if "run" in wildcards.keys():
            known |= config["runs"][wildcards.run] | {"run_name": wildcards.run}
        if "epoch" in wildcards.keys():
            known["epoch"] = int(wildcards.epoch)
        chosen = {}
        for name in names:
            top, _, key = name.partition(".")
            if key:
                chosen.setdefault(top, {})[key] = known[top][key]
            else:
                chosen[top] = known[top]
        # A prompt may say </script>, and `snakemake --report` writes params into one.
        return canonical(chosen).replace("<", "\\u003c")

    return text


def in_a_file(text_of):
    """The param that is the path of a file with a text, a function of the wildcards, that grows with the photos,
    subjects or runs: a command has at most 128 KB.

    Snakemake compares no param that is made from `input`. That is as it should be here: what is handed over so is
    compared as an input, or as another param.
    """
    return lambda wildcards, input: text_file(text_of(wildcards))


def listed(name):
    """The same with the paths of an input."""
    return lambda wildcards, input: text_file(listing(input.get(name)))


def text_file(text):
    """A file whose name is the hash of the text in it. A dry run writes nothing."""
    path = Path("results/.cache/in_files") / hashlib.sha256(text.encode()).hexdigest()
    whole = path.is_file() and path.read_bytes() == text.encode()
    if not whole and not workflow.dryrun:
        private_folder(path.parent)
        write_atomic(path, text)
    return path


def growing(amount, per=lambda wildcards: 1):
    """A resource of which a job that failed, for want of it perhaps, gets more: twice, then three times the amount.

    `per` says how often the amount is needed (once for each GPU of a training).
    """
    return lambda wildcards, attempt: amount * per(wildcards) * attempt


def code(script):
    """A script and every local module behind it, as inputs: compared by content, so a touch or a checkout reruns nothing."""
    return [os.path.relpath(path) for path in local_sources(SCRIPTS / script)]


async def dates_mean_nothing(dag, job, outputs):
    """In the place of Snakemake's check that no output is older than an input, which ends a run after a photo whose
    date lies in the future: a camera's clock is wrong, an archive comes from another time zone. The check is for
    clusters whose clocks differ; what is handed on there is compared by content.
    """


DAG.check_output_mtime = dates_mean_nothing

# Snakemake would take <temp> in a path for a variable of its own, and another photo in the place of `<temp>.jpg`.
workflow.pathvars.apply = lambda path: path

# Of the user's files and of the code. Jobs of a cluster read what the Snakemake that sent them remembered.
CONTENTS = Contents(Path(".snakemake/likeness_contents.json"))
if workflow.is_main_process:
    atexit.register(CONTENTS.save)


def contents(script, *sources):
    """What a rule's code says and those of its inputs that no job makes (the `sources`, functions of the wildcards):
    photos, captions, models. Snakemake compares files by content only where their dates say that they are newer; these
    may come from an archive, with any dates. It compares no param that is made from `input`, so they are named again.
    """
    said = CONTENTS.fingerprint(map(Path, code(script)))  # once, not for each job

    def fingerprint(wildcards):
        files = []
        for source in sources:
            found = source(wildcards)
            files += [found] if isinstance(found, (str, Path)) else found
        return f"{said} {CONTENTS.fingerprint(map(Path, files))}"

    return fingerprint if sources else said


def under_roots(path):
    """A path of the configuration, below the first of ROOTS that has it; None where none has, or it is empty."""
    return next(
        (root / path for root in ROOTS if path and (root / path).exists()), None
    )


def photos(wildcards):
    """Every photo of a subject, listed when the workflow is parsed."""
    return photo_files(Path(config["subjects"][wildcards.subject]["photos"]))


def no_photos(wildcards):
    """What lies among the photos and is no file."""
    return not_files(Path(config["subjects"][wildcards.subject]["photos"]))


def captions_beside_photos(wildcards):
    """The captions that the user wrote beside photos."""
    return caption_files(Path(config["subjects"][wildcards.subject]["photos"]))


def draws_class_pictures(wildcards):
    """Whether the base model draws the other people of the class."""
    return config["subjects"][wildcards.subject]["regularisation"] == GENERATE


def class_pictures(wildcards):
    """The pictures of other people of the class that the base model drew, where a subject asks for them."""
    drawn = draws_class_pictures(wildcards)
    return f"results/{wildcards.subject}/class_pictures.tsv" if drawn else []


def regularisation_folder(wildcards):
    """Where a subject's photos of other people of the class lie; None where there are none, or they are drawn."""
    if draws_class_pictures(wildcards):
        return None
    return under_roots(config["subjects"][wildcards.subject]["regularisation"])


def regularisation_photos(wildcards):
    """Photos of other people of the class, where a subject has them."""
    folder = regularisation_folder(wildcards)
    return photo_files(folder) if folder else []


def captions_beside_regularisation(wildcards):
    """The captions beside regularisation photos."""
    folder = regularisation_folder(wildcards)
    return caption_files(folder) if folder else []


def upscale_weights(wildcards):
    """The user's own file for Real-ESRGAN, where there is one."""
    return under_roots(config["upscale"]["weights"]) or []


def network_weights(wildcards):
    """The LoRA file that a run goes on from, where there is one."""
    return under_roots(config["runs"][wildcards.run]["train"]["network_weights"]) or []


def gpus(wildcards):
    """How many GPUs one training takes; no more than there are on this machine, so that the job itself says so."""
    wanted = config["runs"][wildcards.run]["train"]["gpus"]
    return min(wanted, GPUS) if CORES else wanted


def base_model_files(wildcards):
    """The files of a local base model, none for a hub id, and of the user's own VAE."""
    return [f for key in ("base_model", "vae") for f in local_model_files(config[key])]


def captioner(wildcards):
    """Where the captioner is; nothing for the template, or where the user captioned every photo."""
    if config["caption"]["backend"] == "template":
        return []
    written = by_photo(photos(wildcards), captions_beside_photos(wildcards))
    captioned = all(photo in written for photo in photos(wildcards))
    return [] if captioned else "results/captioner.json"


def captioner_files(wildcards):
    """The files of a local captioner; none for a hub id."""
    return local_model_files(config["caption"]["model"])


def clip(wildcards):
    """Where a run's CLIP model is; nothing without one."""
    wanted = config["runs"][wildcards.run]["select"]["clip"]
    return f"results/clip/{wildcards.run}.json" if wanted else []


def clip_files(wildcards):
    """The files of a local CLIP model; none for a hub id."""
    return local_model_files(config["runs"][wildcards.run]["select"]["clip"])


def local_model_files(model):
    """What a model in a folder or a file is made of; nothing where there is neither."""
    path = under_roots(model)
    if path and path.is_dir():
        return sorted(
            p for p in path.rglob("*") if p.suffix in (".json", ".txt", ".safetensors")
        )
    return [path] if path else []


def identity_words(wildcards):
    """The list of words for what a person is."""
    words = config["caption"]["identity_words"]
    return under_roots(words) or words


def captioners_identity_words(wildcards):
    """That list where a captioner's sentences lose them; the template has none of them."""
    return (
        [] if config["caption"]["backend"] == "template" else identity_words(wildcards)
    )


def sampled_epochs(wildcards):
    """The sample tables of a run: the base model (epoch 0) and every checkpoint that is saved."""
    return sample_tables(wildcards.subject, wildcards.run)


def sampled_epochs_of_all_runs(wildcards):
    return [
        table
        for run in config["runs"]
        for table in sample_tables(wildcards.subject, run)
    ]


def sample_tables(subject, run):
    train = config["runs"][run]["train"]
    epochs = train["epochs"]
    if epochs is None:
        # They follow from the number of photos, which is not known before the data set is built.
        built = checkpoints.build_dataset.get(subject=subject)
        dataset = json.loads(Path(built.output.dataset).read_text())
        epochs = schedule(train, *sizes(dataset))["epochs"]
    return [
        f"results/{subject}/{run}/samples/{epoch:06d}.tsv"
        for epoch in [0, *saved_epochs(epochs, train["save_every_n_epochs"])]
    ]


def trained_models(wildcards):
    """What epoch 0 does not need: it is the base model without a LoRA, and can be drawn before anything is trained."""
    return (
        []
        if int(wildcards.epoch) == 0
        else f"results/{wildcards.subject}/{wildcards.run}/models.json"
    )


def strangers(wildcards):
    """Faces that are nobody's, for the floor of likeness."""
    return sorted((ROOTS[1] / "resources/strangers").glob("*.jpg"))
