"""Match a message by the values that it names, and leave its wording free."""

import re


def says(*values: object) -> str:
    """Return a pattern for text that holds all values, in any order; no number is part of another.

    Args:
        values: Names, paths, options or numbers, taken literally.
    """
    held = (rf"(?=.*(?<![\d.]){re.escape(str(value))}(?!\.?\d))" for value in values)
    return r"(?s)\A" + "".join(held)
