"""Output of `opsearch bench`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from opsearch.formatting import format_amount
from opsearch.timing import PARTS

if TYPE_CHECKING:
    from opsearch.timing.policy_latency import LatencyRow

_PART_TITLES = {
    "tower": "vision tower, ms",
    "ranking": "ranking, ms",
    "prefill": "prefill, ms",
    "first_token": "first token, ms",
    "decode": "per token, ms",
}
_SIDES = ("original", "policy")


def print_latency(row: LatencyRow, console: Console) -> None:
    """Print medians and quartiles of original and policy, and the predicted costs."""
    console.print(row["policy_name"], style="bold")
    console.print(_latency_table(row, row["kv_bytes"]))
    if row["graphs"]:
        console.print("With the layers of the policy run as CUDA graphs", style="bold")
        console.print(_latency_table(row["graphs"], row["kv_bytes"]))
    console.print(
        f"Measured at batch {row['batch']} with {row['visual']} visual and {row['other']} text "
        f"tokens, in {row['pairs']} alternating pairs: median (quartiles). Ratios are per pair. "
        "Prefill: decoder with ranking and lm_head.",
        soft_wrap=True,
        style="dim",
    )
    if row["shape"]:
        console.print("Random weights; the vision tower is not run.", style="dim")
    if "peak_bytes" not in row["policy"]:
        console.print("Peak memory is measured on CUDA devices only.", style="dim")


def print_peers(rows: Sequence[LatencyRow], console: Console) -> None:
    """Print one line per method: time of the token selection, and ratio of the prefill."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("", no_wrap=True)
    for name in ("selection, ms", "% of prefill", "FLOPs, ratio", "prefill, ratio"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        ranking = row["policy"]["ranking_ms"]
        share = f"{100 * ranking[1] / row['original']['prefill_ms'][1]:.3g}"
        before = row["before_decoder"]
        selection = [_spread(ranking), share] if before else ["in the prefill", ""]
        table.add_row(
            row["rule"], *selection, f"{row['flop_ratio']:.3f}", _spread(row["ratio"]["prefill"])
        )
    console.print(table)
    first = rows[0]
    console.print(
        f"Measured at batch {first['batch']} with {first['visual']} visual and {first['other']} "
        f"text tokens, in {first['pairs']} alternating pairs: median (quartiles). Prefill of the "
        f"original: {_spread(first['original']['prefill_ms'])} ms. Ratios are per pair and include "
        "the selection; features that a method reads from the vision tower are computed there.",
        soft_wrap=True,
        style="dim",
    )


def _latency_table(row: LatencyRow, kv: LatencyRow) -> Table:
    """Return the times of original and policy, with the sizes of their caches."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("", no_wrap=True)
    for name in (*_SIDES, "ratio"):
        table.add_column(name, justify="right", no_wrap=True)
    for part in PARTS:
        cells = [_spread(row[side].get(f"{part}_ms")) for side in _SIDES]
        if part == "ranking":
            cells[0] = ""  # the original ranks nothing
        if any(cells):
            table.add_row(_PART_TITLES[part], *cells, _spread(row["ratio"].get(part)))
    table.add_row("KV cache", *_byte_cells([kv[side] for side in _SIDES]))
    table.add_row("KV cache, predicted", *_byte_cells([kv[f"{side}_cost"] for side in _SIDES]))
    if "peak_bytes" in row["policy"]:
        table.add_row("peak memory", *_byte_cells([row[side]["peak_bytes"] for side in _SIDES]))
    table.add_row("FLOPs", "", "", f"{row['flop_ratio']:.3f}")
    return table


def _spread(values: Sequence[float] | None) -> str:
    if values is None:
        return ""
    low, median, high = (f"{v:.0f}" if v >= 100 else f"{v:.3g}" for v in values)
    return f"{median} ({low}-{high})"


def _byte_cells(amounts: Sequence[int]) -> list[str]:
    """Format the bytes of original and policy, and their ratio."""
    original, policy = amounts
    return [format_amount(original, "B"), format_amount(policy, "B"), f"{policy / original:.3f}"]
