"""Output of `opsearch bench`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from opsearch.commands.cli.tables import Column, print_table
from opsearch.errors import one_line
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
    console.print(one_line(row["policy_name"]), style="bold")
    print_table(_latency_columns(row, row["kv_bytes"]), console)
    if row["graphs"]:
        console.print("With the layers of the policy run as CUDA graphs", style="bold")
        print_table(_latency_columns(row["graphs"], row["kv_bytes"]), console)
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
    headers = ("selection, ms", "% of prefill", "FLOPs, ratio", "prefill, ratio")
    lines = []
    for row in rows:
        ranking = row["policy"]["ranking_ms"]
        share = f"{100 * ranking[1] / row['original']['prefill_ms'][1]:.3g}"
        before = row["before_decoder"]
        selection = [spread(ranking), share] if before else ["in the prefill", ""]
        lines.append((*selection, f"{row['flop_ratio']:.3f}", spread(row["ratio"]["prefill"])))
    columns = [Column(*pair) for pair in zip(headers, zip(*lines, strict=True), strict=True)]
    print_table([Column("", [row["rule"] for row in rows], "left"), *columns], console)
    first = rows[0]
    console.print(
        f"Measured at batch {first['batch']} with {first['visual']} visual and {first['other']} "
        f"text tokens, in {first['pairs']} alternating pairs: median (quartiles). Prefill of the "
        f"original: {spread(first['original']['prefill_ms'])} ms. Ratios are per pair and include "
        "the selection; features that a method reads from the vision tower are computed there.",
        soft_wrap=True,
        style="dim",
    )


def _latency_columns(row: LatencyRow, kv: LatencyRow) -> list[Column]:
    """Return the times of original and policy, with the sizes of their caches."""
    rows: list[Sequence[str]] = []
    for part in PARTS:
        cells = [spread(row[side].get(f"{part}_ms")) for side in _SIDES]
        if part == "ranking":
            cells[0] = ""  # the original ranks nothing
        if any(cells):
            rows.append((_PART_TITLES[part], *cells, spread(row["ratio"].get(part))))
    rows.append(("KV cache", *_byte_cells([kv[side] for side in _SIDES])))
    rows.append(("KV cache, predicted", *_byte_cells([kv[f"{side}_cost"] for side in _SIDES])))
    if "peak_bytes" in row["policy"]:
        rows.append(("peak memory", *_byte_cells([row[side]["peak_bytes"] for side in _SIDES])))
    rows.append(("FLOPs", "", "", f"{row['flop_ratio']:.3f}"))
    titles, *others = zip(*rows, strict=True)
    columns = [Column(*pair) for pair in zip((*_SIDES, "ratio"), others, strict=True)]
    return [Column("", titles, "left"), *columns]


def spread(values: Sequence[float] | None) -> str:
    """Format the median between its quartiles; nothing for None."""
    if values is None:
        return ""
    low, median, high = (f"{v:.0f}" if v >= 100 else f"{v:.3g}" for v in values)
    return f"{median} ({low}-{high})"


def _byte_cells(amounts: Sequence[int]) -> list[str]:
    """Format the bytes of original and policy, and their ratio."""
    original, policy = amounts
    return [format_amount(original, "B"), format_amount(policy, "B"), f"{policy / original:.3f}"]
