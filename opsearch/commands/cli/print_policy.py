"""A policy on the terminal.

It stands alone because `opsearch show` needs neither tables nor reports, which take a second to
import.
"""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from opsearch.analysis.heatmap import draw_terminal, save_heatmap
from opsearch.policy.policy import Policy
from opsearch.policy.schedule import where


def print_policy(
    policy: Policy, visual_tokens: int | None, figure: Path | None, console: Console
) -> None:
    """Print the heat map, the rankers and the provenance of a policy."""
    drawn = save_heatmap(policy, figure, visual_tokens) if figure else None
    console.print(policy.name, style="bold")
    console.print(draw_terminal(policy, visual_tokens))
    for layer, spec in policy.rankers:
        console.print(f"ranker: {spec}, {where(layer, spec)}")
    # How a search ended says more than its status, which may be that of a proxy.
    hidden = {"status"} if "ended" in policy.provenance else set[str]()
    for key, value in policy.provenance.items():
        if key in hidden:
            continue
        shown = ", ".join(map(str, value)) if isinstance(value, list) else value
        console.print(f"{key}: {shown}", soft_wrap=True)
    if drawn:
        console.print(f"written: {drawn}", soft_wrap=True)
