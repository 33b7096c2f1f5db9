"""What the commands print: tables and sentences, nothing is computed here.

The consoles have markup switched off, so that what data, policies and paths say is shown as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from opsearch.analysis.heatmap import draw_terminal, save_heatmap
from opsearch.formatting import format_amount, format_duration
from opsearch.policy.policy import Policy
from opsearch.policy.schedule import where
from opsearch.problem.constraint import Constraint
from opsearch.problem.objective import KL_QUANTUM
from opsearch.problem.problem import Problem
from opsearch.problem.solution import Solution
from opsearch.run_folder import RunFolder
from opsearch.verdict import cell, verdict

if TYPE_CHECKING:
    import pandas as pd

    from opsearch.analyze import Analysis
    from opsearch.config import RunConfig
    from opsearch.dry_run import DryRun
    from opsearch.evaluate import Scores
    from opsearch.front import Front
    from opsearch.planned import CoarseWork
    from opsearch.run import RunResult
    from opsearch.timing.policy_latency import TimedPrefill

_TABLE_WIDTH = 80


def print_run(result: RunResult, console: Console) -> None:
    """The solution, the comparison, and where the files are."""
    print_summary(result.problem, result.solution, console)
    if result.prefill is not None:
        _print_prefill(result.prefill, result.problem.constraints, console)
    for line in verdict(result.comparison):
        console.print(line, soft_wrap=True)
    # Wider than a narrow terminal, where columns that find no room would be left out.
    width = max(console.width, _TABLE_WIDTH)
    console.print(comparison_table(result.comparison), width=width, crop=False)
    told = {
        "FLOPs": "FLOPs: convention exact (2 per multiply-add, all tokens, one lm_head row), live\n"
        "operations, mean per calibration sample.",
        "KV": "KV cache after the prefill.",
        "prefill": "Prefill as the latency table predicts.",
        "KL": "KL in nats.",
        "accuracy": "Accuracies: held-out items.",
    }
    shown = [words for row, words in told.items() if _has_row(result.comparison, row)]
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
