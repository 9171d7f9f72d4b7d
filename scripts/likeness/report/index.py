"""The start page of the results: the choice of every run of every subject, with links to the evidence."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from likeness.choosing.best import calling_words
from likeness.choosing.choice import advice, chosen_cell, separation
from likeness.report.page import rendered
from likeness.report.thumbnails import sample_uri


def index_html(
    choices: Mapping[tuple[str, str], Mapping[str, Any]],
    previews: Mapping[tuple[str, str], Path],
    galleries: Collection[tuple[str, ...]],
    subjects: Mapping[str, Mapping[str, Any]],
    unfinished: Mapping[str, Mapping[str, str]],
) -> str:
    """The text of the page, with addresses relative to results/. It depends only on the arguments and the previews.

    `choices`, and `previews` with the preview pictures of best/, are by (subject, run) and in the order of the
    configuration. `galleries` are the (subject, run) that have a gallery. `subjects` is the section of the
    configuration, `unfinished` says why a subject's run has no choice, "" where nothing is known.
    """
    groups = [
        {
            "subject": name,
            "runs": [
                _card(run, choice, previews[name, run], subject) | {"gallery": (of, run) in galleries}
                for (of, run), choice in choices.items()
                if of == name
            ],
            "unfinished": unfinished.get(name, {}),
        }
        for name, subject in subjects.items()
    ]
    return rendered("index.html.j2", title="results", groups=groups)


def _card(run: str, choice: Mapping[str, Any], preview: Path, subject: Mapping[str, Any]) -> dict[str, Any]:
    use, sure = advice(choice)
    return {
        "run": run,
        "use": use,
        "sure": sure,
        "separation": separation(choice, subject),
        "choice": choice,
        "cell": chosen_cell(choice),
        "prompt": calling_words(choice, subject),
        "preview": sample_uri(preview),
    }
