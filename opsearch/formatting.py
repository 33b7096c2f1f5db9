"""Formatting and parsing of costs, times and amounts of memory; objects on one screen."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import fields, is_dataclass
from fractions import Fraction
from itertools import groupby
from math import floor
from textwrap import shorten
from typing import Any

from opsearch.errors import echo

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
_MOST_DIGITS, _MOST_EXPONENT = 200, 99
_EXPONENT = re.compile(r"[eE]([-+]?\d[\d_]*)")
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


def parse_number(text: str) -> Fraction:
    """Return an exact number from text such as "0.42", "9/16" or "1e-3".

    Its size is bounded, because a short text such as "1e-99999999" has millions of digits.

    Raises:
        ValueError: The text is no number, or one of too many digits; the message is the reason.
    """
    if len(text) > _MOST_DIGITS:
        raise ValueError(f"has more than {_MOST_DIGITS} characters")
    exponent = _EXPONENT.search(text)
    if exponent and abs(int(exponent[1].replace("_", ""))) > _MOST_EXPONENT:
        raise ValueError(f"has an exponent beyond {_MOST_EXPONENT}")
    try:
        return Fraction(text)
    except ZeroDivisionError:
        raise ValueError("divides by 0") from None
    except ValueError:
        raise ValueError("is no number") from None


def parse_memory(text: str) -> int:
    """Return the bytes of an amount such as 8GB (powers of 1000).

    Raises:
        ValueError: The text is not an amount of memory.
    """
    match = _MEMORY.fullmatch(text.strip())
    amount = floor(parse_number(match[1]) * PREFIXES[match[2]]) if match else 0
    if not amount:
        raise ValueError("not an amount of memory such as 8GB or 500MB")
    return amount


_LINES, _COLUMNS, _VALUE, _ENTRIES = 10, 100, 60, 4


def screen_repr(value: Any) -> str:
    """Return class and fields of a dataclass on one screen; arrays and tables by their size.

    For `__repr__ = screen_repr` in classes with values that may be long.
    """
    given = {field.name: getattr(value, field.name) for field in fields(value) if field.repr}
    return on_screen(type(value).__name__, given)


def counts_of_equal(values: Iterable[object]) -> str:
    """Return values in 90 characters, equal neighbours as one, e.g. "1 x8, 9/16 x20, 0 x12"."""
    runs = [(brief(value), len(list(equal))) for value, equal in groupby(values)]
    entries = [f"{value} x{count}" if count > 1 else value for value, count in runs]
    return shorten(", ".join(entries), 90, placeholder=" ...")


def on_screen(name: str, given: Mapping[str, object]) -> str:
    """Return `name(key=value, ...)` on at most 10 lines of 100 columns, long values cut."""
    entries = [f"{key}={brief(value)}" for key, value in given.items()]
    if len(whole := f"{name}({', '.join(entries)})") <= _COLUMNS:
        return whole
    lines = [f"{name}("]
    for entry in entries:
        if len(lines) > 1 and len(lines[-1]) + len(entry) + 2 < _COLUMNS:
            lines[-1] += f" {entry},"
        else:
            lines.append(f"    {entry},")
    if len(lines) > _LINES:
        lines[_LINES - 1 :] = ["    ...,"]
    return "\n".join(lines)[:-1] + ")"


def brief(value: object) -> str:
    """Return a value in at most 60 characters: arrays by shape, collections by their first entries.

    An object in the field of another one is its class and its name.
    """
    if isinstance(value, str):
        return _cut(repr(value[:_VALUE]) + "..." * (len(value) > _VALUE))
    if isinstance(value, Mapping):
        return _several([f"{brief(k)}: {brief(v)}" for k, v in _first(value.items())], value, "{}")
    if isinstance(value, Set):
        return _several([brief(each) for each in _first(value)], value, "{}")
    if isinstance(value, list | tuple):
        return _several([brief(each) for each in _first(value)], value, "()")
    if is_dataclass(value) and not isinstance(value, type):
        name = getattr(value, "name", None)
        return f"{type(value).__name__}({brief(name) if isinstance(name, str) else '...'})"
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple) and shape:  # of an array, tensor or table
        kind = str(getattr(value, "dtype", type(value).__name__)).removeprefix("torch.")
        return f"{kind}[{', '.join(map(str, shape))}]"
    if isinstance(value, Fraction):
        long = max(value.numerator.bit_length(), value.denominator.bit_length()) > 4 * _VALUE
        return "..." if long else _cut(str(value))
    return _cut(echo(value, _VALUE) if isinstance(value, int) else repr(value))


def _first(values: Iterable[Any]) -> list[Any]:
    return [each for _, each in zip(range(_ENTRIES), values, strict=False)]


def _several(shown: Sequence[str], whole: Any, marks: str) -> str:
    """Return entries between marks, as many as there is room for, and the number of the others."""
    for count in range(len(shown), -1, -1):
        left = len(whole) - count
        inner = ", ".join((*shown[:count], *([f"... {left:,} more"] if left else [])))
        if len(inner) <= _VALUE - 2:
            break
    return f"{marks[0]}{inner}{marks[1]}"


def _cut(text: str) -> str:
    return text if len(text) <= _VALUE else f"{text[: _VALUE - 3]}..."
