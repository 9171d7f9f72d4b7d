"""A project on storage that nodes without network and a group of users share."""

import os
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from hub import Hub
from likeness.core.errors import LikenessError
from likeness.core.files import GROUP_UMASK, check_space, lock, private_folder
from likeness.core.manifests import read_table
from project import Project
from small_pretrained import small_blip, small_clip

GROUP, NOBODY = 12345, 65534  # a group that is not the user's own, a user who is not
MODELS = ("results/models/models.json", "results/base.json", "results/captioner.json", "results/clip/portrait.json")
SHOWN = ["plot_grid", "plot_sheets", "build_report", "build_index"]


class OfflineProject(Project):
    """Its Snakemake, and so every job, has no network, not even this machine's own, unless `network` says so."""

    network = True

    def snakemake(self) -> list:
        return super().snakemake() if self.network else ["unshare", "--net", *super().snakemake()]


OF_A_GROUP = {
    **{"share_with_group": True, "base_model": "somebody/base", "select": {"clip": "somebody/clip"}},
    "caption": {"backend": "blip", "model": "somebody/captioner"},
}


@pytest.fixture(scope="module")
def project(tmp_path_factory, model_files, small_base) -> OfflineProject:
    """Finished, in a folder of a group, by a user whose files it may write: the models are fetched, the rest is made
    without network. The caches are on a scratch space."""
    if subprocess.run(["unshare", "--net", "true"], capture_output=True).returncode:
        pytest.skip("only root can run a program without network (unshare --net) and hand a folder to another group")
    place = tmp_path_factory.mktemp("storage")
    models = {
        "somebody/base": small_base,
        "somebody/captioner": small_blip(place / "blip"),
        "somebody/clip": small_clip(place / "clip", model_files),
    }
    (place / "shared").mkdir()
    os.chown(place / "shared", 0, GROUP)
    (place / "shared").chmod(0o2775)
    project = OfflineProject(place / "shared/project", model_files, small_base, photos=8)
    (place / "scratch").mkdir()
    (project.folder / "results/.cache").symlink_to(place / "scratch/likeness")
    project.configure(**OF_A_GROUP)
    with Hub(models) as hub:
        fetched = project.run(*MODELS, environment={**hub.environment, "HF_HOME": str(place / "hub")})
    assert set(fetched.jobs) == {"fetch_models", "fetch_base", "fetch_captioner", "fetch_clip"}
    assert {"unet/diffusion_pytorch_model.safetensors", "model.safetensors"} <= set(hub.asked)
    project.network = False
    project.run()
    yield project


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_jobs_need_no_network(project):
    scores = read_table(project.folder / "results/ava/portrait/scores.tsv")
    assert scores["prompt_detail"].str.startswith("CLIP ").any()
    assert set(read_table(project.folder / "results/ava/captions.tsv")["source"]) == {"blip"}
    assert project.run().jobs == {}


def test_a_job_does_not_ask_the_hub(project):
    """With a network, and a hub that has the model, a model that has gone is an error all the same."""
    project.network = True
    fetched = project.folder.parent.parent / "hub/hub/models--somebody--clip"
    shutil.move(fetched, fetched.with_name("away"))
    try:
        with Hub({"somebody/clip": project.folder.parent.parent / "clip"}) as hub:
            outcome = project.run("--forcerun", "score_checkpoint", check=False, environment=hub.environment)
        assert outcome.status != 0 and not hub.asked
        assert (
            "is no longer at" in outcome.text
            and "run: snakemake --cores 1 --force results/clip/portrait.json" in outcome.text
        )
    finally:
        shutil.move(fetched.with_name("away"), fetched)
        project.network = False
    project.run()


def test_another_clip_model_judges_anew_and_draws_nothing(project):
    shutil.copytree(project.folder.parent.parent / "clip", project.folder / "own_clip")
    project.configure(**(OF_A_GROUP | {"select": {"clip": "own_clip"}}))
    outcome = project.run()
    assert set(outcome.jobs) == {"fetch_clip", "score_checkpoint", "choose_checkpoint", *SHOWN}
    assert outcome.computed["score_checkpoint"] == 0, "the same weights from another place"


def test_results_and_caches_are_the_groups_and_nobody_elses(project):
    results = [p for p in project.folder.glob("results/ava/**/*") if not p.is_symlink()]
    assert len(results) > 50
    assert {p.stat().st_gid for p in results} == {GROUP}
    assert {mode(p) & 0o777 for p in results} == {0o770, 0o660}
    scratch = project.folder / "results/.cache"
    assert scratch.is_symlink()
    cached = [scratch, *scratch.glob("**/*")]
    assert {"runs", "detect_faces", "crop_faces", "cache_latents"} <= {p.name for p in cached}
    assert {mode(p) & 0o777 for p in cached} == {0o770, 0o660}
    snakemakes = [project.folder / "results", project.folder / ".snakemake", *project.folder.glob(".snakemake/*/")]
    assert len(snakemakes) > 5
    assert {mode(p) & 0o2070 for p in snakemakes} == {0o2070}, "another of the group can run the same folder"


def test_results_and_caches_are_their_users_alone(finished_project):
    """Without a word about it, and with the umask of these tests, which others may read by."""
    made = [*finished_project.folder.glob("results/ava/**/*"), *finished_project.folder.glob("results/.cache/**/*")]
    assert len(made) > 100
    assert {mode(p) & 0o777 for p in made} == {0o700, 0o600}


@pytest.mark.parametrize("umask", [0o000, 0o002, 0o022, 0o077], ids=oct)
def test_a_cache_is_private_whatever_the_umask_and_the_groups_bit(tmp_path, umask):
    tmp_path.chmod(0o2777)
    before = os.umask(umask)
    try:
        private_folder(tmp_path / ".cache/runs/key")
    finally:
        os.umask(before)
    assert {mode(tmp_path / name) & 0o777 for name in (".cache", ".cache/runs", ".cache/runs/key")} == {0o700}


@pytest.mark.parametrize("inside", ["", "runs"])
def test_an_older_cache_that_others_may_read_is_closed(tmp_path, inside, capsys):
    cache = tmp_path / ".cache" / inside
    cache.mkdir(parents=True)
    (cache / "item").touch()
    cache.chmod(0o2755)
    private_folder(tmp_path / ".cache/runs")
    assert mode(cache) == 0o2700 and f"{cache} was open to others" in capsys.readouterr().out


@pytest.mark.parametrize("inside", ["", "runs"])
@pytest.mark.parametrize("rights", [0o775, 0o757, 0o1777], ids=oct)
def test_what_others_may_have_put_into_a_cache_is_not_used(tmp_path, inside, rights):
    cache = tmp_path / ".cache" / inside
    cache.mkdir(parents=True)
    cache.chmod(rights)
    private_folder(tmp_path / ".cache")
    assert inside or mode(cache) == mode(cache) & 0o1700, "nothing is in it yet"
    (cache / "item").touch()
    cache.chmod(rights)
    with pytest.raises(LikenessError, match=rf"others than you may write to {cache}, .* chmod 700 "):
        private_folder(tmp_path / ".cache/runs")
    cache.chmod(0o700)
    private_folder(tmp_path / ".cache/runs")


def test_a_disk_without_access_rights_is_refused_before_anything_is_kept_there(tmp_path, monkeypatch):
    """As exFAT is mounted, and Windows' disks in WSL: all may do all, and chmod is no error and does nothing."""
    tmp_path.chmod(0o777)
    make = Path.mkdir
    monkeypatch.setattr(Path, "mkdir", lambda path, **options: (make(path, **options), os.chmod(path, 0o777)))
    monkeypatch.setattr(Path, "chmod", lambda path, mode: None)
    for _ in range(2):
        with pytest.raises(LikenessError, match=r"\.cache has no access rights \(exFAT.*; move the project to another"):
            private_folder(tmp_path / ".cache")
    assert not list((tmp_path / ".cache").iterdir())


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user for a while")
def test_a_teams_cache_that_another_of_it_leaves_open_is_refused():
    with tempfile.TemporaryDirectory() as results:  # not tmp_path, which lies in a private folder
        cache = Path(results) / ".cache"
        cache.mkdir()
        os.chown(cache, NOBODY, GROUP)
        before = os.umask(GROUP_UMASK)
        try:
            cache.chmod(0o770)
            private_folder(cache)
            for rights in (0o777, 0o775, 0o772):
                cache.chmod(rights)
                with pytest.raises(LikenessError, match="others than your group .* ask that user .* chmod 770"):
                    private_folder(cache)
        finally:
            os.umask(before)


def test_a_cache_whose_scratch_space_was_emptied_is_made_again(tmp_path):
    (tmp_path / ".cache").symlink_to(tmp_path / "scratch/likeness")
    private_folder(tmp_path / ".cache/runs")
    assert mode(tmp_path / "scratch/likeness/runs") == mode(tmp_path / "scratch/likeness") == 0o700


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user for a while")
def test_another_users_cache_is_refused_in_a_sentence():
    with tempfile.TemporaryDirectory() as results:  # not tmp_path, which lies in a private folder
        Path(results).chmod(0o755)
        private_folder(Path(results) / ".cache/runs")
        (Path(results) / ".cache").chmod(0o755)  # as where it is a link to a folder that the user made
        os.seteuid(NOBODY)
        try:
            for inside in ("key", ""):
                with pytest.raises(LikenessError, match=r"\.cache/runs.* is closed to this user, .* as that user, or"):
                    private_folder(Path(results) / ".cache/runs" / inside)
        finally:
            os.seteuid(0)


@pytest.mark.parametrize("change", [{"f_bavail": 2000, "f_bfree": 2000}, {"f_favail": 400, "f_ffree": 400}])
def test_a_disk_that_is_full_from_the_start_is_one_line(tmp_path, monkeypatch, change):
    roomy = dict.fromkeys(("f_bavail", "f_bfree", "f_files", "f_favail", "f_ffree"), 10**6) | {"f_frsize": 4096}
    monkeypatch.setattr(os, "statvfs", lambda folder: SimpleNamespace(**roomy))
    check_space([tmp_path, tmp_path / "gone"])
    monkeypatch.setattr(os, "statvfs", lambda folder: SimpleNamespace(**roomy | change))
    with pytest.raises(LikenessError, match=f"^the disk of {tmp_path} is full; free some space .* same command again"):
        check_space([tmp_path])
    without_count = {"f_files": 0, "f_favail": 0, "f_ffree": 0}
    monkeypatch.setattr(os, "statvfs", lambda folder: SimpleNamespace(**roomy | without_count))
    check_space([tmp_path])


def test_a_file_that_cannot_be_locked_says_what_to_do(tmp_path):
    """The kernel refuses a lock on a file that was opened as a mere name, as some file systems refuse every lock."""
    (tmp_path / "lock").touch()
    with open(tmp_path / "lock", "rb", buffering=0, opener=lambda path, _: os.open(path, os.O_PATH)) as file:
        for wait in (False, True):
            with pytest.raises(LikenessError, match=r"cannot be locked \(bad file descriptor\), .*; mount the file"):
                lock(file, wait)
