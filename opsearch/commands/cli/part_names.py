"""Help texts that name the parts there are, those of installed plug-ins among them."""

from __future__ import annotations

import re
from typing import Any

from typer.core import TyperCommand

_PLACEHOLDER = re.compile(r"\{(\w+)\}")


class CommandNamingParts(TyperCommand):
    """Command whose options may name parts in their help as `{solvers}` or another kind.

    The names are looked up when the help is shown, so that other commands start without them.
    """

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Fill the placeholders, then show the help."""
        parameters: list[Any] = self.params  # options and arguments, which have a help
        for parameter in parameters:
            parameter.help = parameter.help and with_part_names(parameter.help)
        super().format_help(ctx, formatter)


def with_part_names(text: str) -> str:
    """Return a help text in which each `{kind}` of the registry is the names of its parts."""
    from opsearch.registry import names

    return _PLACEHOLDER.sub(lambda match: ", ".join(names(match[1])), text)
