"""A project in a temporary folder: the real Snakefile, rules and scripts, with small photos and a small base model."""

import copy
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import yaml
from PIL import Image

import fork_server

ROOT = Path(__file__).resolve().parent.parent
CONFIG = {
    "base_model": "small_base",
    "resolution": 64,
    "subjects": {"ava": {"photos": "photos", "trigger": "ohwx", "class_noun": "woman", "consent": "synthetic"}},
    "runs": {"portrait": {}},
    "curate": {"min_photos": 3, "min_face": 40},
    "train": {"rank": 8, "alpha": 8, "max_train_steps": 6, "epochs": 2, "batch_size": 2, "precision": "fp32"},
    "sample": {
        **{"prompts": ["photo of {subject}"], "untrained_prompts": ["photo of a {class_noun}"]},
        **{"weights": [0.5, 1.0], "seeds": [1], "steps": 2},
    },
    "portraits": {"scenes": {}},
}


class Outcome(NamedTuple):
    """The result of a call of Snakemake."""

    jobs: dict[str, int]
    """{rule: number of its jobs that ran}."""
    computed: dict[str, int]
    """{rule: number of items that its jobs computed, by the last line of their logs}."""
    status: int
    text: str


class Project:
    """A project in `folder` with photos, configuration and code. `run` calls snakemake as a user does, without an
    activated environment."""

    # Whether the fork server starts the jobs. Tests of how a job starts, is killed or finds its Python do not use it.
    fork_jobs = False

    # Several threads make models as small as these slower, most of all if two tests share the cores.
    in_one_thread = ("upscale_faces", "draw_class_pictures", "cache_latents", "train_lora", "sample_checkpoint")

    def __init__(self, folder: Path, model_files: Path, small_base: Path, photos: int = 8):
        self.folder, self.model_files, self.config = folder, model_files, CONFIG
        for name in ("rules", "scripts", "envs", "profiles"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "Snakefile", folder)
        (folder / "resources").mkdir()
        shutil.copy(ROOT / "resources/identity_words.txt", folder / "resources")
        shutil.copytree(small_base, folder / "small_base")
        self.link_models()
        for n in range(photos):
            self.add_photo(f"{n:02d}.jpg")
        self.configure()

    def copied(self, folder: Path) -> "Project":
        """A copy of the project with its results in another folder, in which no job needs to run again."""
        shutil.copytree(self.folder, folder, symlinks=True)
        other = copy.copy(self)
        other.folder = folder
        return other

    def link_models(self) -> None:
        """Add the fetched model files, as if fetch_models had run here, so that nothing is downloaded twice."""
        models = self.folder / "results/models"
        models.mkdir(parents=True, exist_ok=True)
        for file in self.model_files.glob("[!.]*"):  # hidden files are being written by another process of tests
            os.link(file, models / file.name)
        (models / "models.json").unlink()

    def add_photo(self, name: str, brightness: float = 1.0) -> None:
        """Add one of ava's photos, reduced in size. The same name gives the same bytes."""
        photo = self.folder / "photos" / name
        photo.parent.mkdir(exist_ok=True)
        with Image.open(ROOT / "resources/people/ava" / name) as picture:
            picture.resize((224, 224)).point(lambda level: int(level * brightness)).save(photo, quality=92)

    def configure(self, **changes) -> None:
        """Write config.yaml: CONFIG with some keys of some sections changed (`train={"rank": 16}`)."""
        self.config = {
            key: value | changes[key]
            if key in changes and isinstance(value, dict) and key not in ("runs", "subjects")
            else changes.get(key, value)
            for key, value in (CONFIG | {k: v for k, v in changes.items() if k not in CONFIG}).items()
        }
        (self.folder / "config.yaml").write_text(yaml.safe_dump(self.config))

    def snakemake(self) -> list:
        """The command that calls Snakemake."""
        return [Path(sys.executable).parent / "snakemake"]

    def place(self, cores: str) -> list[str]:
        """The options that decide where jobs run."""
        return ["--cores", cores]

    def start(self, *arguments: str, environment: dict | None = None, cores: str = "all") -> subprocess.Popen:
        """Start Snakemake by its path in its own process group, with its output in `snakemake.out`."""
        threads = ["--set-threads", *(f"{rule}=1" for rule in self.in_one_thread)] if self.in_one_thread else []
        command = [*self.snakemake(), *threads, *self.place(cores), *arguments]
        plain = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": os.environ.get("HOME", "/")}
        forking = fork_server.environment() if self.fork_jobs else {}
        self.output, self.started = self.folder / "snakemake.out", time.time()
        with open(self.output, "w") as output:
            self.head = subprocess.Popen(
                command,
                cwd=self.folder,
                env=plain | forking | (environment or {}),
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        return self.head

    def run(self, *arguments: str, check: bool = True, **options) -> Outcome:
        process = self.start(*arguments, **options)
        try:
            process.wait(timeout=900)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        outcome = self.outcome(process.returncode)
        assert not check or outcome.status == 0, outcome.text + self.logs()
        return outcome

    def outcome(self, status: int) -> Outcome:
        text = self.output.read_text()
        finished = re.findall(r"Finished jobid: \d+ \(Rule: (\w+)\)", text)
        jobs = {rule: finished.count(rule) for rule in finished if rule != "all"}
        counts = {rule: self.items(rule) for rule in jobs}
        return Outcome(jobs, {rule: count for rule, count in counts.items() if count is not None}, status, text)

    def items(self, rule: str) -> int | None:
        """Items computed by a rule's jobs of the latest call, by their logs; None for a rule without an item cache."""
        written = (
            log for log in self.folder.glob(f"results/logs/**/{rule}*.log") if log.stat().st_mtime >= self.started
        )
        logs = [log.read_text().splitlines() for log in written]
        counts = [re.fullmatch(r"items: (\d+) computed, \d+ reused", lines[-1]) for lines in logs if lines]
        return sum(int(m[1]) for m in counts) if counts and all(counts) else None

    def logs(self) -> str:
        return "".join(f"\n--- {p}\n{p.read_text()[-3000:]}" for p in sorted(self.folder.glob("results/logs/**/*.log")))

    def loras(self, run: str = "portrait", subject: str = "ava") -> list[bytes]:
        """The bytes of every checkpoint of a run."""
        return [p.read_bytes() for p in sorted((self.folder / f"results/{subject}/{run}/models").glob("*.safetensors"))]
