"""What a script says reaches the person who called it, also where the log or the disk cannot be written."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from likeness.core import cli
from likeness.core.errors import LikenessError

PROGRAM = """
import errno, os, sys
from likeness.core import cli
from likeness.core.errors import LikenessError

def main():
    cli.arguments("a script")
    cli.say("at work")
    {work}

cli.run(main)
"""


def called(root: Path, work: str, log: Path, program: str = PROGRAM) -> subprocess.CompletedProcess:
    program = program.format(work=work)
    environment = os.environ | {"PYTHONPATH": str(root / "scripts"), "PYTHONUNBUFFERED": ""}
    command = [sys.executable, "-c", program, "--log", log]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_a_mistake_is_one_line_on_the_terminal_and_in_the_log(root, tmp_path):
    done = called(root, "raise LikenessError('no photo')", tmp_path / "a.log")
    assert (done.returncode, done.stderr, done.stdout) == (1, "at work\nerror: no photo\n", "")
    assert (tmp_path / "a.log").read_text() == "at work\nerror: no photo\n"


def test_a_name_gives_the_terminal_no_orders(root, tmp_path):
    done = called(root, r"raise LikenessError('a\x1b[2Jb\rc\x9b\x07ü\n\td.jpg')", tmp_path / "a.log")
    assert done.stderr == "at work\nerror: a\\x1b[2Jb\\rc\\x9b\\x07ü\n\td.jpg\n"


def test_the_terminal_hears_of_a_mistake_though_the_log_is_full(root):
    done = called(root, "raise LikenessError('no photo')", Path("/dev/full"))
    assert (done.returncode, done.stderr) == (1, "at work\nerror: no photo\n")


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        ("ENOSPC", "no space left on device; free some space (df -h, and df -i for the number of files)"),
        ("EDQUOT", "disk quota exceeded; free some space"),
        ("EROFS", "read-only file system; make the disk writable"),
        ("EIO", "input/output error; see to the disk or the network drive"),
        ("ESTALE", "stale file handle; see to the disk or the network drive"),
        ("EACCES", "permission denied; give yourself the right to write there"),
    ],
)
def test_a_disk_that_takes_nothing_is_one_line(root, tmp_path, number, advice):
    work = f"raise OSError(errno.{number}, os.strerror(errno.{number}), 'x.png')"
    for log in (tmp_path / "a.log", Path("/dev/full")):
        done = called(root, work, log)
        assert done.returncode == 1 and "Traceback" not in done.stderr
        assert done.stderr.splitlines()[-1].startswith(f"error: x.png: {advice}")
        assert done.stderr.endswith("and run the same command again\n")


def test_a_job_whose_log_is_full_is_done_all_the_same(root):
    """What it made is whole, and a failed job's outputs would be deleted. Python writes the chatter at the end."""
    chatter = PROGRAM.replace('cli.say("at work")', 'print("chatter of a library")')
    done = called(root, "pass", Path("/dev/full"), chatter)
    said = "the log could not be written, perhaps because its disk is full; what the job made is whole\n"
    assert (done.returncode, done.stderr) == (0, said)


def test_no_folder_for_temporary_files_is_one_line(root, tmp_path):
    """Python looks for one in TMPDIR, /tmp, /var/tmp and here."""
    work = "import tempfile; tempfile._candidate_tempdir_list = lambda: ['/nowhere']; tempfile.gettempdir()"
    done = called(root, work, tmp_path / "a.log")
    assert (done.returncode, done.stderr.splitlines()[-1]) == (
        1,
        "error: no folder for temporary files can be written; free some space in one, or set TMPDIR to another",
    )


def test_a_log_that_cannot_be_opened_is_one_line(root, tmp_path):
    (tmp_path / "a.log").mkdir()
    done = called(root, "pass", tmp_path / "a.log")
    assert done.returncode == 1 and "a.log: is a directory" in done.stdout and "Traceback" not in done.stderr


def test_another_error_keeps_its_traceback(root, tmp_path):
    done = called(root, "raise OSError(errno.ENOENT, 'gone', 'x')", tmp_path / "a.log")
    assert done.returncode == 1 and "Traceback" in (tmp_path / "a.log").read_text()


def test_settings_that_are_too_long_for_a_command_come_from_a_file(tmp_path, monkeypatch):
    text = json.dumps({"sample": {"prompts": ["写" * 300] * 200}}, ensure_ascii=False)
    assert len(text.encode()) > 2**17
    file = tmp_path / hashlib.sha256(text.encode()).hexdigest()
    file.write_text(text)
    monkeypatch.setattr(sys, "argv", ["a script", "--config", f"@{file}"])
    assert cli.as_mappings(cli.arguments("a script").config) == json.loads(text)
    file.write_text(text.replace("写", "x", 1))
    with pytest.raises(LikenessError, match="was changed since it was written"):
        cli.arguments("a script")
