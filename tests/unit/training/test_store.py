"""What a training has earned survives kills, damaged files and full disks."""

import os
import resource
import signal
import subprocess
import sys

import pytest
import torch

from damage import DAMAGES, REPLACED, flip
from likeness.core.errors import LikenessError
from likeness.core.files import write_atomic
from likeness.core.provenance import SCRIPTS
from likeness.training.store import RunStore


@pytest.fixture
def store(tmp_path) -> RunStore:
    return RunStore(tmp_path / "store")


def test_the_newest_state_comes_back(store):
    assert store.load_state() is None
    for step in (1, 2, 3):
        store.save_state({"step": step, "weights": torch.full((3,), float(step))})
    state = store.load_state()
    assert state["step"] == 3 and torch.equal(state["weights"], torch.full((3,), 3.0))


def test_an_epoch_is_there_with_its_metrics_or_not_at_all(store):
    store.save_epoch(2, b"lora", {"metrics": [{"step": 7, "loss": 0.1}], "heldout": "photos"})
    assert store.has_epoch(2) and store.has_all_epochs([2]) and not store.has_all_epochs([1, 2])
    assert store.measured(2) == {"metrics": [{"step": 7, "loss": 0.1}], "heldout": "photos"}
    (store.folder / "epoch-000002.json").unlink()
    assert not store.has_epoch(2)


@pytest.mark.parametrize("name", ["epoch-000002.safetensors", "epoch-000002.json"])
@pytest.mark.parametrize("damage", [*DAMAGES, *REPLACED])
def test_a_damaged_epoch_is_trained_again(store, tmp_path, capsys, name, damage):
    for epoch in (1, 2):
        store.save_epoch(epoch, b"lora" * 1000, {"metrics": [{"step": epoch, "loss": 0.125}], "heldout": "photos"})
    damage(tmp_path / "store" / name)
    store._lock.close()
    store = RunStore(tmp_path / "store")
    assert store.has_epoch(1) and not store.has_epoch(2) and not store.has_all_epochs([1, 2])
    assert "epoch-000002.safetensors was damaged since it was written; it is trained again" in capsys.readouterr().out
    store.save_epoch(2, b"lora" * 1000, {"metrics": []})
    assert store.has_all_epochs([1, 2])


def test_epochs_that_changed_places_are_trained_again(store, tmp_path, capsys):
    """Each with what is written of it, so that both are whole."""
    for epoch in (1, 2):
        store.save_epoch(epoch, b"lora" * epoch, {"metrics": [{"step": 7}]})
    for ending in (".safetensors", ".json"):
        first, second = (tmp_path / f"store/epoch-00000{epoch}{ending}" for epoch in (1, 2))
        first.rename(tmp_path / "aside")
        second.rename(first)
        (tmp_path / "aside").rename(second)
    store._lock.close()
    store = RunStore(tmp_path / "store")
    assert not store.has_epoch(1) and not store.has_epoch(2)
    assert capsys.readouterr().out.count("was damaged since it was written; it is trained again") == 2


def test_what_another_run_made_is_not_used(store, tmp_path):
    store.save_epoch(1, b"lora", {"metrics": []})
    store.save_state({"step": 1})
    store._lock.close()
    (tmp_path / "store").rename(tmp_path / "other")
    other = RunStore(tmp_path / "other")
    assert not other.has_epoch(1)
    with pytest.raises(LikenessError, match="every saved state .* is damaged"):
        other.load_state()


def test_notes_for_people_stop_nothing_when_they_are_damaged(store, tmp_path):
    store.save_epoch(1, b"lora", {})
    for name in ("history", "owner"):
        (tmp_path / "store" / name).write_bytes(b"\xff\xfe\0")
    with pytest.raises(LikenessError, match="trains this very run"):
        store.save_epoch(2, b"lora", {})
    store._lock.close()
    store = RunStore(tmp_path / "store")
    store.save_epoch(2, b"lora", {})
    assert (tmp_path / "store/history").read_text().endswith(f"epoch 2 by {store._owner}\n")


def test_a_damaged_state_is_noticed_and_the_one_before_is_used(store, tmp_path, capsys):
    for step in (1, 2):
        store.save_state({"step": step, "weights": torch.ones(1000)})
    flip(tmp_path / "store/state.pt")
    assert store.load_state()["step"] == 1
    assert "state.pt is damaged" in capsys.readouterr().out
    flip(tmp_path / "store/state.previous.pt")
    with pytest.raises(LikenessError, match="every saved state .* is damaged; delete that folder"):
        store.load_state()


def test_a_cut_state_is_noticed(store, tmp_path):
    for step in (1, 2):
        store.save_state({"step": step})
    path = tmp_path / "store/state.pt"
    path.write_bytes(path.read_bytes()[:100])
    assert store.load_state()["step"] == 1


def test_a_kill_at_any_moment_of_saving_leaves_a_whole_state(tmp_path):
    """A process that does nothing but save is killed again and again; no step is lost that was said to be saved."""
    program = (
        "import sys, torch; from pathlib import Path; from likeness.training.store import RunStore\n"
        "store = RunStore(Path(sys.argv[1]), lambda text: None)\n"
        "step = (store.load_state() or {'step': 0})['step']\n"
        "while True:\n"
        "    step += 1; store.save_state({'step': step, 'weights': torch.ones(200_000)}); print(step, flush=True)\n"
    )
    scripts = str(SCRIPTS)
    saved = 0
    for kill in range(4):
        process = subprocess.Popen(
            [sys.executable, "-c", program, tmp_path / "store"],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": scripts},
        )
        for _ in range(5 + 3 * kill):
            saved = int(process.stdout.readline())
        process.kill()
        process.wait()
        store = RunStore(tmp_path / "store")
        assert store.load_state()["step"] >= saved
        store._lock.close()
        saved = store.load_state()["step"]


def test_a_full_disk_is_a_sentence_and_keeps_what_was_saved(store, tmp_path):
    """The limit on a file's size is met the way a full disk is: the write fails half-way."""
    store.save_state({"step": 1})
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(LikenessError, match="too large .* free some space .* what was saved before is safe"):
            store.save_state({"step": 2, "weights": torch.ones(1_000_000)})
        with pytest.raises(LikenessError, match="2 MB to write"):
            write_atomic(tmp_path / "table.tsv", b"x" * 2_000_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert store.load_state()["step"] == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store"]
    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == ["lock", "owner", "state.pt"]


def test_a_process_that_lost_its_lock_writes_nothing_more(store, tmp_path):
    """Its lock is lost as a network file system may lose it: unnoticed, and another process gets one of its own."""
    store.save_state({"step": 1})
    (tmp_path / "store/lock").unlink()
    other = RunStore(tmp_path / "store")
    assert other.load_state()["step"] == 1
    before = {path.name: path.read_bytes() for path in (tmp_path / "store").iterdir()}
    for save in (lambda: store.save_state({"step": 2}), lambda: store.save_epoch(1, b"lora", {})):
        with pytest.raises(LikenessError, match=r"process \d+ on .* trains this very run, .* leaves it to that one"):
            save()
    assert {path.name: path.read_bytes() for path in (tmp_path / "store").iterdir()} == before
    other.save_state({"step": 2})
    assert other.load_state()["step"] == 2
