"""What the commands print: tables and sentences, nothing is computed here.

The consoles have markup switched off, so that what data, policies and paths say is shown as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from opsearch.analysis.equal_cost import is_defined
from opsearch.analysis.heatmap import draw_terminal, save_heatmap
from opsearch.evaluation.lmms.scores import Evaluation, TaskScores, ends
from opsearch.formatting import format_amount, format_duration
from opsearch.policy.policy import Policy
from opsearch.policy.schedule import where
from opsearch.problem.constraint import Constraint
from opsearch.problem.objective import KL_QUANTUM
from opsearch.problem.problem import Problem
from opsearch.problem.solution import Solution
from opsearch.report.verdict import cell, verdict
from opsearch.runs.run_folder import RunFolder
from opsearch.timing.parts import PARTS

if TYPE_CHECKING:
    import pandas as pd

    from opsearch.commands.analyze import Analysis
    from opsearch.commands.dry_run import DryRun
    from opsearch.commands.front import Front
    from opsearch.commands.search_result import SearchResult
    from opsearch.evaluation.evaluate import Scores
    from opsearch.runs.config import RunConfig
    from opsearch.runs.effort import CoarseWork
    from opsearch.timing.policy_latency import LatencyRow, TimedPrefill

_TABLE_WIDTH = 80


def print_run(result: SearchResult, console: Console) -> None:
    """The solution, the comparison, and where the files are."""
    print_summary(result.problem, result.solution, console)
    if result.prefill is not None:
        _print_prefill(result.prefill, result.problem.constraints, console)
    comparison = result.comparison
    assert comparison is not None  # a run makes one
    for line in verdict(comparison):
        console.print(line, soft_wrap=True)
    # Wider than a narrow terminal, where columns that find no room would be left out.
    width = max(console.width, _TABLE_WIDTH)
    console.print(comparison_table(comparison), width=width, crop=False)
    told = {
        "FLOPs": "FLOPs: convention exact (2 per multiply-add, all tokens, one lm_head row), live\n"
        "operations, mean per calibration sample.",
        "KV": "KV cache after the prefill.",
        "prefill": "Prefill as the latency table predicts.",
        "KL": "KL in nats.",
        "accuracy": "Accuracies: held-out items.",
    }
    shown = [words for row, words in told.items() if _has_row(comparison, row)]
    console.print(" ".join(shown), style="dim")
    folder = RunFolder(result.folder)
    lines = [f"policy   {result.folder}/policy_config.json, drawn in {folder.policy_figure}"]
    if folder.front.exists():
        lines.append(f"front    {folder.front}, drawn in {folder.front_figure}")
    lines.append(f"record   {folder.solution}, {folder.comparison}")
    lines.append(f"settings {folder.config}; measurements {folder.measurements}")
    lines.append(f"report   {folder.report}")
    console.print("\n".join(lines), soft_wrap=True)


def _print_prefill(
    found: TimedPrefill, constraints: Sequence[Constraint], console: Console
) -> None:
    console.print(
        f"prefill of {found.n_visual} visual and {found.n_other} other tokens: predicted "
        f"{found.predicted:.4g} ms, real {found.real:.4g} ms; original predicted "
        f"{found.original_predicted:.4g} ms, real {found.original_real:.4g} ms",
        soft_wrap=True,
    )
    limit = next(c.limit / c.samples / 1e6 for c in constraints if c.unit == "ns")
    if found.real > limit:
        console.print(
            f"the real time is {found.real / limit - 1:.0%} above the budget of {limit:.4g} ms: "
            "where nothing else ran meanwhile, take a smaller budget",
            soft_wrap=True,
        )


def _has_row(frame: pd.DataFrame, start: str) -> bool:
    return any(str(row).startswith(start) for row in frame.index)


def print_dry_run(plan: DryRun, config: RunConfig, console: Console) -> None:
    """What each objective would measure, and how long that takes at a nominal speed."""
    limit, floor = (
        plan.constraint.describe(c) for c in (plan.constraint.limit, plan.constraint.floor)
    )
    console.print(
        f"space {plan.space.name}: {_policies(plan)}{limit}; text alone {floor}",
        soft_wrap=True,
    )
    for name, found in plan.estimates.items():
        held = format_amount(found.elements * plan.room.itemsize, "B")
        lines = [
            f"{name}: {found.policies:,} policies on {found.samples} samples",
            *([f"in {found.parts:,} parts by memory"] if found.parts > 1 else []),
            f"{found.nodes:,} nodes",
            format_amount(found.flops, "FLOPs"),
            f"{found.forwards:.1f} forwards of the original per sample",
            f"a sample holds {held}",
            f"about {format_duration(plan.seconds[name])} on {config.device}",
        ]
        console.print(", ".join(lines), soft_wrap=True)
        if name == "joint" and plan.coarse:
            console.print(_from_coarse_to_fine(plan, plan.coarse, config), soft_wrap=True)
    console.print(
        f"{plan.chosen}. States of a pass take up to {format_amount(plan.room.memory, 'B')} "
        "(--memory); times are FLOPs over 15 GFLOP/s per core or 100 TFLOP/s per GPU; the final "
        "comparison comes on top.",
        soft_wrap=True,
    )


def _from_coarse_to_fine(plan: DryRun, coarse: CoarseWork, config: RunConfig) -> str:
    first = coarse.first
    return (
        f"joint from coarse to fine: {first.policies:,} policies first, "
        f"{first.forwards:.1f} forwards of the original per sample; with what is near the best of "
        f"them {coarse.forwards:.1f}, as a guess, about {format_duration(plan.seconds['coarse'])} "
        f"on {config.device}"
    )


def _policies(plan: DryRun) -> str:
    if plan.feasible is None:
        return "too many policies to list, budget "
    return f"{plan.feasible:,} of {len(plan.space.points):,} policies within "


def print_solution(problem: Problem, solution: Solution, folder: Path, console: Console) -> None:
    """The solution of `opsearch solve`."""
    print_summary(problem, solution, console)
    console.print(f"policy {folder}/policy_config.json", soft_wrap=True)
    console.print(f"report {RunFolder(folder).report}", soft_wrap=True)


def print_summary(problem: Problem, solution: Solution, console: Console) -> None:
    """Policy, cost beside budget and floor, value, proof."""
    if solution.policy is None:
        raise ValueError("only a solution with a policy can be printed")
    console.print(solution.policy.name, style="bold")
    console.print(draw_terminal(solution.policy))
    for constraint in problem.constraints:
        cost = constraint.describe(solution.costs[constraint.name])
        limit, floor = (constraint.describe(c) for c in (constraint.limit, constraint.floor))
        word = "predicted " if constraint.unit == "ns" else ""
        console.print(
            f"{word}{constraint.name} {cost} within {limit}; text alone {floor}", soft_wrap=True
        )
    bound = ""
    if solution.bound is not None:
        bound = f", bound {solution.bound:.6f}, gap {solution.gap:.1e}"
    console.print(
        f"{solution.objective} objective {solution.value:.6f} {solution.unit}{bound}; "
        f"{solution.solver} in {solution.seconds:.2f} s",
        soft_wrap=True,
    )
    quantum = problem.objective.quantum
    if problem.objective.unit == "nats" and quantum > KL_QUANTUM:
        console.print(
            f"noise floor of this precision: {quantum:.0e} nats; divergences are compared in steps "
            "of it, smaller differences are ties",
            soft_wrap=True,
        )
    console.print(f"{solution.status}: {solution.status.sentence}", soft_wrap=True)
    if solution.note:
        console.print(solution.note, soft_wrap=True)


def comparison_table(frame: pd.DataFrame) -> Table:
    """The run's final table; methods are columns."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 0, 0, 1))
    table.add_column("", no_wrap=True)
    for name in frame.columns:
        # Headers break at spaces only, so that seven methods fit into _TABLE_WIDTH columns.
        width = max(len(word) for word in name.split())
        style = "bold" if name == "opsearch" else None
        table.add_column(name, justify="right", style=style, min_width=width)
    for row in frame.index:
        table.add_row(row, *(cell(row, frame.loc[row, name]) for name in frame.columns))
    return table


def print_front(front: Front, path: Path, console: Console) -> None:
    """The front by rising cost, and what of it is proved."""
    names = list(front.table.columns[: front.table.columns.get_loc(front.per_sample)])
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("cost, %", "per sample", front.unit, *names, "proved"):
        table.add_column(name, justify="right")
    for row in front.table.to_dict("records"):
        table.add_row(
            f"{100 * row['share']:.2f}",
            format_amount(row[front.per_sample], front.constraint.unit),
            f"{row['value']:.6f}",
            *(str(row[name]) for name in names),
            "yes" if row["proved"] else "no",
        )
    console.print(table)
    console.print(front.sentence, soft_wrap=True)
    console.print(f"written: {path}", soft_wrap=True)


def print_policy(
    policy: Policy, visual_tokens: int | None, figure: Path | None, console: Console
) -> None:
    """A policy's heat map, rankers and provenance."""
    drawn = save_heatmap(policy, figure, visual_tokens) if figure else None
    console.print(policy.name, style="bold")
    console.print(draw_terminal(policy, visual_tokens))
    for layer, spec in policy.rankers:
        console.print(f"ranker {spec}, {where(layer, spec)}")
    for key, value in policy.provenance.items():
        shown = ", ".join(map(str, value)) if isinstance(value, list) else value
        console.print(f"{key}: {shown}", soft_wrap=True)
    if drawn:
        console.print(f"drawn in {drawn}")


def print_scores(scores: Scores, console: Console) -> None:
    """Accuracy per family, original beside policy, and Rel. Avg."""
    original, policy = scores.original.by_family(), scores.policy.by_family()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("family", "original", "policy", "ratio"):
        table.add_column(name, justify="left" if name == "family" else "right")
    for family, score in original.items():
        ratio = f"{100 * policy[family] / score:.1f}%" if score else "-"
        table.add_row(family, f"{100 * score:.1f}%", f"{100 * policy[family]:.1f}%", ratio)
    console.print(table)
    count, changed = len(scores.original.texts), scores.changed
    relative = f"Rel. Avg. {100 * scores.relative:.1f}%"
    if not any(original.values()):
        relative = "Rel. Avg. is not defined, as the original answers nothing as the data does:"
    console.print(
        f"{relative} over {len(original)} families, {count} items, {changed} answers changed",
        soft_wrap=True,
    )
    if scores.dropped:
        console.print(f"{scores.dropped} items were left out: the policy was searched on them")


def print_analysis(analysis: Analysis, files: Sequence[Path], console: Console) -> None:
    """The paragraph of an analysis, and its files."""
    console.print(analysis.text, soft_wrap=True)
    console.print(f"written: {', '.join(map(str, files))}", soft_wrap=True)


def print_compared(frame: pd.DataFrame, console: Console) -> None:
    """Methods down and budgets across: Rel. Avg. in % with its interval, then KL and FLOPs."""
    rows = frame.to_dict("records")
    if is_defined(frame):
        kept = [f"{row['rel_avg']:.1f} ({row['low']:.0f}-{row['high']:.0f})" for row in rows]
        console.print(_by_budget("Rel. Avg., %", frame, kept))
    spent = [f"{row['kl']:.3f}, {100 * row['share']:.1f}" for row in rows]
    console.print(_by_budget("KL, nats; FLOPs, %", frame, spent))


def _by_budget(title: str, frame: pd.DataFrame, cells: Sequence[str]) -> Table:
    """A cell for each row of the frame, methods down and budgets across; a dash where none is."""
    budgets = list(dict.fromkeys(frame["budget"]))
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(title)
    for budget in budgets:
        table.add_column(budget, justify="right")
    at = dict(zip(zip(frame["method"], frame["budget"], strict=True), cells, strict=True))
    for method in dict.fromkeys(frame["method"]):
        table.add_row(method, *(at.get((method, budget), "-") for budget in budgets))
    return table


def print_evaluation(evaluation: Evaluation, console: Console) -> None:
    """Print scores per sample of every task, and official figures of whole splits."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    headers = (
        "task",
        "samples",
        "original",
        "policy",
        "ratio (95 %)",
        "official",
        "policy",
        "ratio",
    )
    for name in headers:
        table.add_column(name, justify="left" if name == "task" else "right")
    for seed, task in enumerate(evaluation.tasks):
        low, high = ends(task.resampled(seed))
        table.add_row(
            task.name,
            str(len(task.original)),
            f"{100 * task.original.mean():.1f}%",
            f"{100 * task.policy.mean():.1f}%",
            _ratio_cell(task.ratio, low, high),
            *_official_cells(task),
        )
    console.print(table)
    _print_average(evaluation, console)


def _print_average(evaluation: Evaluation, console: Console) -> None:
    count = sum(len(task.original) for task in evaluation.tasks)
    changed = sum(task.changed for task in evaluation.tasks)
    average = _ratio_cell(evaluation.relative, *evaluation.interval())
    console.print(
        f"Rel. Avg. {average} of scores per sample over {len(evaluation.tasks)} tasks, "
        f"{count} documents, {changed} answers changed",
        soft_wrap=True,
    )
    if not np.isnan(evaluation.official_relative):
        console.print(f"Rel. Avg. {100 * evaluation.official_relative:.1f}% of official figures")
    elif evaluation.limit is not None:
        console.print(
            f"the first {evaluation.limit} documents of each task: official figures need whole "
            "splits",
            soft_wrap=True,
        )
    for task in evaluation.tasks:
        if task.dropped:
            console.print(
                f"{task.name}: {task.dropped} documents were left out: the policy was searched on "
                "them",
                soft_wrap=True,
            )


def _official_cells(task: TaskScores) -> tuple[str, str, str]:
    if task.official is None:
        return "-", "-", "-"
    original, policy = task.official
    return f"{original:.4g}", f"{policy:.4g}", _percent_cell(task.official_ratio)


def _ratio_cell(value: float, low: float, high: float) -> str:
    return "-" if np.isnan(value) else f"{_percent_cell(value)} ({100 * low:.0f}-{100 * high:.0f})"


def _percent_cell(value: float) -> str:
    return "-" if np.isnan(value) else f"{100 * value:.1f}%"


_PART_TITLES = {
    "tower": "vision tower, ms",
    "ranking": "ranking, ms",
    "prefill": "prefill, ms",
    "first_token": "first token, ms",
    "decode": "per token, ms",
}
_SIDES = ("original", "policy")


def print_latency(row: LatencyRow, console: Console) -> None:
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


def print_peers(rows: Sequence[LatencyRow], console: Console) -> None:
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


def _latency_table(row: LatencyRow, kv: LatencyRow) -> Table:
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
