"""The frame that all pages share, and how templates are filled."""

from pathlib import Path

import jinja2


def rendered(template: str, **values: object) -> str:
    """A template of this folder, filled: the text of a whole HTML page. A value that is missing is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # As they are handed over and without spaces: thousands of pictures' numbers are in a page.
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    environment.filters["number"] = lambda value: "–" if value is None else f"{value:.2f}"
    return environment.get_template(template).render(**values)
