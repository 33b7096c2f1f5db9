"""Templates of the pages in this folder."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined


def templates() -> Environment:
    """Return the environment of the templates, which escapes all text."""
    return Environment(
        loader=PackageLoader("opsearch.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
