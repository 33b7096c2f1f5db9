"""Formatting and parsing of costs, times and amounts of memory."""

from __future__ import annotations

import re
from fractions import Fraction
from math import floor

PREFIXES = {
    "k": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "P": 10**15,
    "E": 10**18,
    "Z": 10**21,
    "Y": 10**24,
}
_MEMORY = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*([kMGT])B")


def format_amount(amount: float, unit: str) -> str:
    """Format an amount with an SI prefix, e.g. 5.83 TFLOPs, 160 MB or 118 ms."""
    if unit == "ns":
        return _format_time(amount)
    for prefix, factor in reversed(PREFIXES.items()):
        if abs(amount) >= factor:
            return f"{amount / factor:.4g} {prefix}{unit}"
    return f"{amount:.4g} {unit}"


def counted(number: int, singular: str, plural: str = "") -> str:
    """Return a number of things, e.g. "1 sample", "3 samples"."""
    return f"{number:,} {singular if number == 1 else plural or f'{singular}s'}"


def format_duration(seconds: float) -> str:
    """Format a duration, e.g. 90 s, 35 min, 6 h or 25 days."""
    for unit, factor in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 5 * factor:
            return f"{seconds / factor:,.0f} {unit}"
    return f"{seconds:.0f} s"


def _format_time(nanoseconds: float) -> str:
    for unit, factor in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if abs(nanoseconds) >= factor:
            return f"{nanoseconds / factor:.4g} {unit}"
    return f"{nanoseconds:.4g} ns"


def parse_memory(text: str) -> int:
    """Return the bytes of an amount such as 8GB (powers of 1000).

    Raises:
        ValueError: The text is not an amount of memory.
    """
    match = _MEMORY.fullmatch(text.strip())
    amount = floor(Fraction(match[1]) * PREFIXES[match[2]]) if match else 0
    if not amount:
        raise ValueError("not an amount of memory such as 8GB or 500MB")
    return amount
