"""How all pages are rendered from their templates."""

from collections.abc import Mapping
from pathlib import Path

import jinja2

from likeness.core import cli
from likeness.core.files import publish_folder, write_atomic


def publish_page(page: Path, html: str, folder: Path, pictures: Mapping[str, Path], called: str) -> None:
    """Write a page and the folder of its pictures {name: file}, and say so. `called` are the pictures in a word."""
    publish_folder(folder, pictures)
    write_atomic(page, html)
    cli.say(f"{page}: {len(html) / 1e6:.1f} MB, and {len(pictures)} {called} in {folder}; open it in a browser")


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
