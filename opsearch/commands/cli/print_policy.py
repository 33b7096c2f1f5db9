"""A policy on the terminal: its heat map, and its counts for a number of visual tokens.

It stands alone because `opsearch show` needs neither tables nor reports, which take a second to
import.
"""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

from rich.console import Console

from opsearch.analysis.heatmap import draw_terminal
from opsearch.commands.cli.tables import Column, print_table
from opsearch.errors import one_line
from opsearch.policy.counts import MODULES
from opsearch.policy.policy import Policy
from opsearch.policy.schedule import where


def print_policy(
    policy: Policy, visual_tokens: int | None, drawn: Path | None, console: Console
) -> None:
    """Print heat map, counts, rankers and provenance of a policy, and where it was drawn."""
    console.print(one_line(policy.name), style="bold")
    console.print(draw_terminal(policy, visual_tokens, console.width))
    if visual_tokens is not None:
        print_table(_count_columns(policy, visual_tokens), console)
    for layer, spec in policy.rankers:
        console.print(f"ranker: {one_line(spec)}, {where(layer, spec)}")
    if policy.images is not None:
        console.print(f"images: {policy.images}", soft_wrap=True)
    # How a search ended says more than its status, which may be that of a proxy.
    hidden = {"status"} if "ended" in policy.provenance else set[str]()
    for key, value in policy.provenance.items():
        if key in hidden:
            continue
        shown = ", ".join(map(str, value)) if isinstance(value, list) else value
        console.print(f"{one_line(key)}: {one_line(shown)}", soft_wrap=True)
    if drawn:
        console.print(f"written: {drawn}", soft_wrap=True)


def _count_columns(policy: Policy, visual_tokens: int) -> list[Column]:
    """Return the tokens that each operation processes, with equal neighbouring layers as one."""
    layers, counts, start = [], [], 0
    for triple, run in groupby(policy.executed(visual_tokens).tolist()):
        last = start + len(list(run)) - 1
        layers.append(f"{start}-{last}" if last > start else f"{start}")
        counts.append([str(count) for count in triple])
        start = last + 1
    first = Column(f"tokens of {visual_tokens}, layers", layers, "left")
    each = zip(MODULES, zip(*counts, strict=True), strict=True)
    return [first, *(Column(module, cells) for module, cells in each)]
