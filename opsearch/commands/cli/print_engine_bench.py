"""Output of `opsearch bench --engine vllm`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console

from opsearch.commands.cli.print_latency import spread
from opsearch.commands.cli.tables import Column, print_table
from opsearch.errors import one_line
from opsearch.formatting import counted

_HEADERS = ("vLLM", "policy", "ratio")


def print_engine_bench(row: dict[str, Any], console: Console) -> None:
    """Print times with and without the policy, and the ratios of costs beside them."""
    console.print(one_line(row["policy_name"]), style="bold")
    lines = [*_alone(row), *_under_load(row), *_predicted(row)]
    titles, *cells = zip(*lines, strict=True)
    columns = [Column(*pair) for pair in zip(_HEADERS, cells, strict=True)]
    print_table([Column("", titles, "left"), *columns], console)
    console.print(
        f"Prompts of {row['visual']} visual and {row['other']} text tokens in the mean, answers of "
        f"{counted(row['new_tokens'], 'token')}. Alone: {counted(row['repeats'], 'pair')} of "
        "requests in alternation, median (quartiles), ratios per pair. At once: "
        f"{counted(row['requests'], 'request')}, twice with each. Per s: times to the first token "
        f"at random arrival, at {_shares(row)} of what vLLM without the policy answers at once. No "
        "request finds anything in a cache. FLOPs and KV bytes are those of the cost models.",
        soft_wrap=True,
        style="dim",
    )


def _shares(row: dict[str, Any]) -> str:
    """Return the rates of arrival in words."""
    return " and ".join(f"{100 * each['share']:.0f} %" for each in row["arriving"])


def _alone(row: dict[str, Any]) -> list[Sequence[str]]:
    """Return lines of the requests that are alone."""
    titles = {"first_token": "alone, first token, ms", "per_token": "alone, per token, ms"}
    return [
        (title, *(spread(row[name][part]) for part in ("stock_ms", "policy_ms", "ratio")))
        for name, title in titles.items()
        if name in row
    ]


def _under_load(row: dict[str, Any]) -> list[Sequence[str]]:
    """Return lines of the requests at once and at random times."""
    rates, used = row["requests_per_s"], row["kv_in_use"]
    lines: list[Sequence[str]] = [
        ("at once, requests per s", *_sides(rates, 1.0, 3)),
        ("at once, KV cache in use, %", *_sides(used, 100.0, 3)),
    ]
    for each in row["arriving"]:
        at = f"{each['per_s']:.3g} per s"
        for index, name in enumerate(("median", "99th percentile")):
            stock, policy = each["stock_ms"][index], each["policy_ms"][index]
            numbers = f"{stock:.4g}", f"{policy:.4g}", f"{policy / stock:.3f}"
            lines.append((f"{at}, {name}, ms", *numbers))
    return lines


def _sides(values: dict[str, float], scale: float, digits: int) -> tuple[str, str, str]:
    stock, policy = (f"{scale * values[side]:.{digits}g}" for side in ("stock", "policy"))
    return stock, policy, f"{values['ratio']:.3f}"


def _predicted(row: dict[str, Any]) -> list[Sequence[str]]:
    """Return lines of the ratios of costs."""
    titles = {
        "prefill_flops": "FLOPs of the whole prefill",
        "decoder_flops": "FLOPs of the decoder",
        "kv_bytes": "KV bytes",
    }
    return [(title, "", "", f"{row[name]:.3f}") for name, title in titles.items() if name in row]
