"""The first page of the results: what was chosen for every subject in every run, and where the evidence is."""

from collections.abc import Mapping
from pathlib import Path

from likeness.best import calling_words
from likeness.report.page import rendered
from likeness.report.pictures import sample_uri
from likeness.selection import advice, chosen_cell, separation


def index_html(
    choices: Mapping[tuple[str, str], Mapping],
    previews: Mapping[tuple[str, str], Path],
    subjects: Mapping[str, Mapping],
) -> str:
    """The whole page, with addresses relative to results/. Same files, same text.

    By (subject, run) and in the order of the configuration: choices, and the preview pictures of best/. `subjects` is
    the section of the configuration.
    """
    groups = [
        {
            "subject": name,
            "runs": [
                _card(run, choice, previews[name, run], subject) for (of, run), choice in choices.items() if of == name
            ],
        }
        for name, subject in subjects.items()
    ]
    return rendered("index.html.j2", title="results", groups=groups)


def _card(run: str, choice: Mapping, preview: Path, subject: Mapping) -> dict:
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
