"""The tables that `opsearch bench` prints; nothing is computed here."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from opsearch.formatting import format_amount
from opsearch.timing.policy_latency import PARTS, Row

_PART_TITLES = {
    "tower": "vision tower, ms",
    "ranking": "ranking, ms",
    "prefill": "prefill, ms",
    "first_token": "first token, ms",
    "decode": "per token, ms",
}
_SIDES = ("original", "policy")


def print_latency(row: Row, console: Console) -> None:
    """Print medians between quartiles of both sides, and the predictions of the cost model."""
    console.print(row["policy_name"], style="bold")
    console.print(_latency_table(row, row["kv_bytes"]))
    if row["graphs"]:
        console.print("The same with the policy's layers launched as CUDA graphs", style="bold")
        console.print(_latency_table(row["graphs"], row["kv_bytes"]))
    console.print(
        f"batch {row['batch']}, {row['visual']} visual and {row['other']} other tokens, "
        f"{row['pairs']} interleaved pairs: median (quartiles); ratios are taken pair by pair. "
        "Prefill is that of the decoder, with ranking and lm_head.",
        soft_wrap=True,
        style="dim",
    )
    if row["shape"]:
        console.print("Random weights; the vision tower does not run.", style="dim")
    if "peak_bytes" not in row["policy"]:
        console.print("Peak memory is told on CUDA devices only.", style="dim")


def print_peers(rows: Sequence[Row], console: Console) -> None:
    """Print a line per rule: time of the selection, and of the prefill that follows."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("", no_wrap=True)
    for name in ("choosing, ms", "% of prefill", "FLOPs", "prefill, ratio"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        ranking = row["policy"]["ranking_ms"]
        share = f"{100 * ranking[1] / row['original']['prefill_ms'][1]:.3g}"
        before = row["before_decoder"]
        choosing = [_spread(ranking), share] if before else ["in the prefill", ""]
        table.add_row(
            row["rule"], *choosing, f"{row['flop_ratio']:.3f}", _spread(row["ratio"]["prefill"])
        )
    console.print(table)
    first = rows[0]
    console.print(
        f"batch {first['batch']}, {first['visual']} visual and {first['other']} other tokens, "
        f"{first['pairs']} interleaved pairs: median (quartiles); the original's prefill: "
        f"{_spread(first['original']['prefill_ms'])} ms. Ratios are taken pair by pair, choosing "
        "included; what a rule reads of the vision tower is computed there.",
        soft_wrap=True,
        style="dim",
    )


def _latency_table(row: Row, kv: Row) -> Table:
    """Return a table of both sides of a row, with the bytes of their caches."""
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
    table.add_row("KV, cost model", *_byte_cells([kv[f"{side}_cost"] for side in _SIDES]))
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
    """Format the bytes of both sides, and their ratio."""
    original, policy = amounts
    return [format_amount(original, "B"), format_amount(policy, "B"), f"{policy / original:.3f}"]
