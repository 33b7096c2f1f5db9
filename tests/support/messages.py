"""Checks of messages by the values and next steps that they name, whatever their wording."""

import re
from typing import Any

import pytest


def naming(*parts: object) -> str:
    """Return a pattern for text that contains every part, in any order.

    Args:
        parts: Names, paths, options or numbers, matched literally. A part that begins with a
            letter or digit begins a word of the text; no number is part of another.
    """
    return r"(?s)\A" + "".join(f"(?=.*{_pattern(str(part))})" for part in parts)


def _pattern(part: str) -> str:
    start = r"(?<![\d.])" + (r"(?<!\w)" if part[0].isalnum() else "")
    return start + re.escape(part) + r"(?!\.?\d)"


def refuses(error: type[Exception], *parts: object) -> Any:
    """Expect an error whose message contains every part."""
    return pytest.raises(error, match=naming(*parts))
