"""Templates become pages that hold everything they show: one look for all of them."""

from __future__ import annotations

from datetime import datetime
from importlib.resources import files
from typing import Any

from auscult import __version__
from auscult.evaluation.words import sentence


def render_page(template: str, **facts: Any) -> str:
    """Fill in a page.

    Parameters
    ----------
    template : str
        HTML in Jinja's language; `{% include "style.css" %}` is the look of all pages, `now` and `version` are known.
    **facts
        What the template names.
    """
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    home = files("auscult.evaluation").joinpath("templates")
    environment = Environment(
        loader=FunctionLoader(lambda name: home.joinpath(name).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["sentence"] = sentence
    page = environment.from_string(template).render(version=__version__, now=datetime.now().astimezone(), **facts)
    return page.lstrip()
