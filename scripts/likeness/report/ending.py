"""The last lines of a call in the terminal: what was chosen, where the LoRA is, and what failed and why."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from likeness.choosing.choice import advice, chosen_cell, read_choice

# More runs than this get one line each: their paragraphs would not fit on a screen.
PARAGRAPHS = 5
MAX_LINES = 50  # of runs: a screen


class RunResult(NamedTuple):
    """What became of a subject's run in a call: whether its report was written, and the error that stopped it."""

    subject: str
    run: str
    best: Path
    finished: bool
    error: str


def closing_lines(results: Sequence[RunResult], seconds: float) -> list[str]:
    """The lines for the user; none if the call finished no run and stopped at no known error. Errors come last."""
    finished = [result for result in results if result.finished]
    failed = [result for result in results if result.error]
    if not finished and not failed:
        return []
    brief = len(finished) > PARAGRAPHS
    lines = [line for result in finished for line in ([_line(result)] if brief else _paragraph(result))]
    if finished:
        lines = [*_shortened(lines), f"Open results/index.html. This call took {duration(seconds)}."]
    return ["", *lines, *_shortened([f"{_name(result)} stopped: {result.error}" for result in failed])]


def _paragraph(result: RunResult) -> list[str]:
    choice, (use, sure), likeness = _about(result)
    return [
        f"{_name(result)}: {use}. {sure}",
        f"  likeness {likeness}, where 0 is a stranger and 1 the person's own photos",
        f"  LoRA: {result.best / choice['lora']}",
    ]


def _line(result: RunResult) -> str:
    choice, (use, _), likeness = _about(result)
    return f"{_name(result)}: {use}; likeness {likeness}; {result.best / choice['lora']}"


def _about(result: RunResult) -> tuple[dict[str, Any], tuple[str, str], str]:
    """The choice of a run, the two sentences about it, and the likeness of the chosen cell."""
    choice = read_choice(result.best / "choice.json")
    return choice, advice(choice), f"{chosen_cell(choice)['identity']:.2f}"


def _name(result: RunResult) -> str:
    return f"{result.subject}, {result.run}"


def _shortened(lines: Sequence[str]) -> Iterable[str]:
    """The first of many lines, and how many more there are. Equal lines stand there once."""
    lines = list(dict.fromkeys(lines))
    more = len(lines) - MAX_LINES
    return lines if more <= 0 else [*lines[:MAX_LINES], f"and {more} more"]


def duration(seconds: float) -> str:
    """A time in words, to the minute from an hour on: "1 h 5 min", "3 min 20 s", "12 s"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, of_hour = divmod(minutes, 60)
    if hours:
        return f"{hours} h {of_hour} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
