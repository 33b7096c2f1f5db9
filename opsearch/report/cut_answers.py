"""Sentence on answers that were cut at their maximum length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from opsearch.models.answer_length import Length

_LEAST_ADVICE = 128


def describe_cut(lengths: Mapping[str, Sequence[Length]], option: str = "--answer-tokens") -> str:
    """Describe how many answers were cut and the option that allows longer ones; empty if none.

    Args:
        lengths: Lengths of the answers of each method, by its name in a sentence.
        option: The option, to which a number of tokens is added.
    """
    cut = {name: [each.tokens for each in of if each.cut] for name, of in lengths.items()}
    cut = {name: limits for name, limits in cut.items() if limits}
    if not cut:
        return ""
    (first, limits), *others = cut.items()
    who = f"{len(limits)} of {len(lengths[first])} answers of {first}"
    if len(others) == 1:
        who += f" and {len(others[0][1])} of {others[0][0]}"
    elif others:
        most = max(len(limits) for _, limits in others)
        who += f" and up to {most} of {len(others)} other methods"
    every = sorted(limit for limits in cut.values() for limit in limits)
    least, most = every[0], every[-1]
    at = f"{most} token{'s'[: most - 1]}" if least == most else f"{least} to {most} tokens"
    verb = "was" if len(every) == 1 else "were"
    return f"{who} {verb} cut at {at}; {option} {_advised(lengths)} allows longer ones"


def _advised(lengths: Mapping[str, Sequence[Length]]) -> int:
    """Return a power of two that is at least twice the longest answer, so that none is cut anew."""
    longest = max(each.tokens for of in lengths.values() for each in of)
    return max(_LEAST_ADVICE, 1 << (2 * longest - 1).bit_length())
