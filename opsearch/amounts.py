"""Costs as people read them: numbers with SI prefixes."""

from __future__ import annotations


def format_amount(amount: float, unit: str) -> str:
    """A number with its SI prefix, e.g. 5.83 TFLOPs, 160 MB or 118 ms."""
    if unit == "ns":
        return _format_time(amount)
    for prefix, factor in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(amount) >= factor:
            return f"{amount / factor:.4g} {prefix}{unit}"
    return f"{amount:.4g} {unit}"


def _format_time(nanoseconds: float) -> str:
    for unit, factor in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if abs(nanoseconds) >= factor:
            return f"{nanoseconds / factor:.4g} {unit}"
    return f"{nanoseconds:.4g} ns"
