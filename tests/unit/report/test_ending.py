"""The last lines in the terminal: what a reader needs when the run is over, with errors at the very end."""

from pathlib import Path

import pytest

from likeness.choosing.selection import choose
from likeness.core.manifests import write_json
from likeness.report.ending import MAX_LINES, RunResult, closing_lines, duration
from made_run import SELECT, made_scores


@pytest.fixture(scope="module")
def best(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("results") / "best"
    scores = made_scores(lambda *cell: {(3, 0.8): 0.8}.get(cell, 0.4), noise=0.05)
    write_json(folder / "choice.json", choose(scores, **SELECT) | {"lora": "ava_portrait.safetensors"})
    return folder


def finished(best: Path, run: str = "portrait") -> RunResult:
    return RunResult("ava", run, best, True, "")


def stopped(best: Path, subject: str = "otto") -> RunResult:
    return RunResult(subject, "portrait", best, False, "no photo shows a face; add some")


def test_a_finished_run_says_what_to_use_where_it_is_and_what_to_open(best):
    lines = closing_lines([finished(best)], 3 * 60 + 20)
    assert lines[1].startswith("ava, portrait: Use epoch 3 at weight 0.8. It is better than each of the other")
    assert lines[2].startswith("  likeness 0.") and lines[2].endswith("0 is a stranger and 1 the person's own photos")
    assert lines[3] == f"  LoRA: {best}/ava_portrait.safetensors"
    assert lines[4:] == ["Open results/index.html. This call took 3 min 20 s."]


def test_an_error_is_the_last_line(best):
    lines = closing_lines([stopped(best), finished(best)], 5)
    assert lines[-1] == "otto, portrait stopped: no photo shows a face; add some"
    assert closing_lines([stopped(best)], 5)[1:] == [lines[-1]], "nothing was finished, so there is nothing to open"


def test_a_call_that_finished_nothing_and_knows_no_error_says_nothing(best):
    assert closing_lines([finished(best)._replace(finished=False)], 5) == []


def test_many_runs_have_a_line_each_and_fill_one_screen(best):
    lines = closing_lines([finished(best, f"run{n}") for n in range(8)], 5)
    assert len(lines) == 8 + 2 and lines[8].startswith("ava, run7: Use epoch 3 at weight 0.8; likeness 0.")
    many = [finished(best, f"run{n}") for n in range(200)] + [stopped(best, f"otto{n}") for n in range(60)]
    lines = closing_lines(many, 5)
    assert len(lines) == 2 * MAX_LINES + 4 and "and 150 more" in lines and lines[-1] == "and 10 more"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (3900, "1 h 5 min")]
)
def test_a_time_is_written_in_words(seconds, text):
    assert duration(seconds) == text
