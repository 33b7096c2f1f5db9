"""Checks of messages by the values and next steps that they name, whatever their wording."""

import re
from typing import Any

import pytest


def naming(*parts: object) -> str:
    """Return a pattern for a text that contains every part, in any order.

    A part is matched literally and from the start of a word on; digits at its ends are not matched
    inside longer numbers.
    """
    return "(?s)" + "".join(f"(?=.*{_pattern(str(part))})" for part in parts)


def _pattern(part: str) -> str:
    start = r"(?<!\w)" if part[0].isalnum() else ""
    end = r"(?!\d)" if part[-1].isdigit() else ""
    return start + re.escape(part) + end


def refuses(error: type[Exception], *parts: object) -> Any:
    """Expect an error whose message contains every part."""
    return pytest.raises(error, match=naming(*parts))
