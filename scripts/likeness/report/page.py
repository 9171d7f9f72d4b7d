"""How all pages are rendered from their templates."""

from pathlib import Path

import jinja2


def rendered(template: str, **values: object) -> str:
    """The text of an HTML page, rendered from a template of this folder. A missing value is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # The keys keep their order, and there are no spaces: a page has the numbers of thousands of pictures.
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    environment.filters["number"] = lambda value: "–" if value is None else f"{value:z.2f}"
    return environment.get_template(template).render(**values)
