"""Output of the commands: tables and sentences.

The consoles must have markup off, so that text from data, policies and paths is printed unchanged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from rich.console import Console

from opsearch.analysis.equal_cost import is_defined
from opsearch.analysis.heatmap import draw_terminal
from opsearch.commands.cli.tables import Column, print_table
from opsearch.errors import one_line
from opsearch.formatting import counted, format_amount, format_duration
from opsearch.problem.constraint import Constraint
from opsearch.problem.objective import KL_QUANTUM
from opsearch.problem.problem import Problem
from opsearch.problem.solution import Solution, statement
from opsearch.report.verdict import CHOSEN, better_baselines, cell, proxy_warning, verdict
from opsearch.runs.next_step import next_step
from opsearch.runs.run_folder import RunFolder

if TYPE_CHECKING:
    from opsearch.commands.analyze import Analysis
    from opsearch.commands.dry_run import DryRun
    from opsearch.commands.engine_eval import ServedScores
    from opsearch.commands.front import Front
    from opsearch.commands.search_result import SearchResult
    from opsearch.evaluation.evaluate import Scores
    from opsearch.runs.answer import Answer
    from opsearch.runs.effort import CoarseWork
    from opsearch.timing.policy_latency import TimedPrefill

_FRONT_LINES = 40
_FEW_SAMPLES = 20  # of a family: the standard error of its accuracy is up to 11 %


def print_run(result: SearchResult, console: Console) -> None:
    """Print the solution of a run, its comparison and its files."""
    print_summary(result.problem, result.solution, console)
    if result.prefill is not None:
        _print_prefill(result.prefill, result.problem.constraints, console)
    if result.images is not None:
        print_table(_image_columns(result.images), console)
    comparison = result.comparison
    assert comparison is not None  # a run makes one
    for line in verdict(comparison):
        console.print(line, soft_wrap=True)
    step = next_step(result.config, RunFolder(result.folder))
    if step and better_baselines(comparison):
        console.print(f"try next:\n{step}", soft_wrap=True)
    ended, _ = statement(result.status, result.problem.objective)
    if warning := proxy_warning(ended, result.value, result.solution.unit, comparison):
        again = f"opsearch run --config {RunFolder(result.folder).config} --verify 8"
        console.print(f"{warning}:\n{again}", soft_wrap=True)
    print_table(comparison_columns(comparison), console, gap=1)  # seven methods in 80 columns
    captions = {
        "FLOPs": "FLOPs: mean per calibration sample, convention exact (2 per multiply-add, live "
        "operations of all tokens, one lm_head row).",
        "+ vision": "+ vision: with vision tower, projector and rankers inside the decoder.",
        "KV": "KV: size of the cache after the prefill.",
        "prefill": "Prefill: predicted by the latency table.",
        "evaluations": "Evaluations: policies measured on calibration samples for the choice.",
        "KL": "KL: divergence from the original, in nats.",
        "accuracy": "Accuracy: on held-out samples.",
        "answers cut": "Answers cut: at their maximum length (--answer-tokens).",
    }
    shown = [caption for row, caption in captions.items() if _has_row(comparison, row)]
    console.print(" ".join(shown), style="dim")
    folder = RunFolder(result.folder)
    lines = [f"policy        {folder.policy}, figure {folder.policy_figure}"]
    if folder.front.exists():
        lines.append(f"front         {folder.front}, figure {folder.front_figure}")
    lines.append(f"solution      {folder.solution}")
    lines.append(f"comparison    {folder.comparison}")
    if result.images is not None:
        lines.append(f"images        {folder.images}")
    lines.append(f"settings      {folder.config}")
    lines.append(f"measurements  {folder.measurements}")
    lines.append(f"report        {folder.report}")
    console.print("\n".join(lines), soft_wrap=True)


def _image_columns(images: pd.DataFrame) -> list[Column]:
    """Return the columns of a run's image settings, one line each."""
    columns = [Column("images", list(images["images"]))]
    for name in images.columns[2:]:
        digits = 6 if name == "KL" else 1
        columns.append(Column(name, [_decimal(value, digits) for value in images[name]]))
    return [*columns, Column("setting", list(images["setting"]), "left", breaks=True)]


def _decimal(value: float, digits: int) -> str:
    return "-" if pd.isna(value) else f"{value:.{digits}f}"


def _print_prefill(
    found: TimedPrefill, constraints: Sequence[Constraint], console: Console
) -> None:
    console.print(
        f"prefill of {found.n_visual} visual and {found.n_other} text tokens: predicted "
        f"{found.predicted:.4g} ms, real {found.real:.4g} ms; original: predicted "
        f"{found.original_predicted:.4g} ms, real {found.original_real:.4g} ms",
        soft_wrap=True,
    )
    limit = next(c.limit / c.samples / 1e6 for c in constraints if c.timed)
    if found.real > limit:
        console.print(
            f"The real time exceeds the budget of {limit:.4g} ms by "
            f"{found.real / limit - 1:.0%}; if no other process was running, use a smaller budget.",
            soft_wrap=True,
        )


def _has_row(frame: pd.DataFrame, start: str) -> bool:
    return any(str(row).startswith(start) for row in frame.index)


def print_dry_run(plan: DryRun, console: Console) -> None:
    """Print the number of measurements of each objective and their estimated time."""
    constraint = plan.constraint
    limit, floor = (constraint.describe_both(c) for c in (constraint.limit, constraint.floor))
    console.print(
        f"space {plan.space.name}: {_policies(plan)} {constraint.name} budget {limit}; "
        f"{constraint.floor_words} alone: {floor}",
        soft_wrap=True,
    )
    for name, found in plan.estimates.items():
        states = format_amount(found.elements * plan.memory.itemsize, "B")
        lines = [
            f"{name}: {found.policies:,} policies on {found.samples} samples",
            *([f"in {found.parts:,} parts to fit the memory"] if found.parts > 1 else []),
            f"{found.nodes:,} nodes",
            format_amount(found.flops, "FLOPs"),
            f"equal to {found.forwards:.1f} forwards of the original per sample",
            f"{states} of states per sample",
            f"about {format_duration(plan.seconds[name])} on {plan.device}",
        ]
        console.print(", ".join(lines), soft_wrap=True)
    if "raced" in plan.seconds:
        raced = format_duration(plan.seconds["raced"])
        console.print(
            f"joint by racing: about {raced} on {plan.device}, an estimate, as it depends on the "
            "results; policies that cannot be the best are dropped early, and --complete measures "
            "all",
            soft_wrap=True,
        )
    if plan.coarse:
        console.print(_from_coarse_to_fine(plan, plan.coarse), soft_wrap=True)
    console.print(f"{plan.chosen}.", soft_wrap=True)
    for effort, words in plan.with_more.items():
        console.print(f"with --effort {effort:g}: {words}.", soft_wrap=True)
    console.print(
        f"The states of one pass take at most {format_amount(plan.memory.memory, 'B')} (--memory). "
        "Times assume 15 GFLOP/s per CPU core or 100 TFLOP/s per GPU, and exclude the final "
        "comparison.",
        soft_wrap=True,
    )


def _from_coarse_to_fine(plan: DryRun, coarse: CoarseWork) -> str:
    first = coarse.first
    return (
        f"joint from coarse to fine: first {first.policies:,} policies, equal to "
        f"{first.forwards:.1f} forwards of the original per sample; including the policies near "
        f"the best of them about {coarse.forwards:.1f} forwards and "
        f"{format_duration(plan.seconds['coarse'])} on {plan.device}"
    )


def _policies(plan: DryRun) -> str:
    if plan.feasible is None:
        return "too many policies to list;"
    return f"{plan.feasible:,} of {len(plan.space.points):,} policies within"


def print_solution(problem: Problem, solution: Solution, folder: Path, console: Console) -> None:
    """Print the solution of `opsearch solve`."""
    print_summary(problem, solution, console)
    console.print(f"policy {RunFolder(folder).policy}", soft_wrap=True)
    console.print(f"report {RunFolder(folder).report}", soft_wrap=True)


def print_summary(problem: Problem, solution: Solution, console: Console) -> None:
    """Print a policy with its costs, its objective and the status of the solution."""
    if solution.policy is None:
        raise ValueError("only a solution with a policy can be printed")
    console.print(one_line(solution.policy.name), style="bold")
    console.print(draw_terminal(solution.policy, width=console.width))
    for constraint in problem.constraints:
        cost = constraint.describe_both(solution.costs[constraint.name])
        cost += "" if constraint.vision is None else ","
        limit, floor = constraint.describe(constraint.limit), constraint.describe(constraint.floor)
        word = "predicted " if constraint.timed else ""
        console.print(
            f"{word}{constraint.name} {cost} within budget {limit}; {constraint.floor_words} "
            f"alone {floor}",
            soft_wrap=True,
        )
    bound = ""
    if solution.bound is not None:
        bound = f", lower bound {solution.bound:.6f}, gap {solution.gap:.1e}"
    console.print(
        f"{solution.objective} objective {solution.value:.6f} {solution.unit}{bound}; "
        f"solver {solution.solver}, {solution.seconds:.2f} s",
        soft_wrap=True,
    )
    quantum = problem.objective.quantum
    if problem.objective.unit == "nats" and quantum > KL_QUANTUM:
        console.print(
            f"noise floor of this precision: {quantum:.0e} nats; smaller differences of KL count "
            "as ties",
            soft_wrap=True,
        )
    console.print(": ".join(statement(solution.status, problem.objective)), soft_wrap=True)
    if solution.note:
        console.print(solution.note, soft_wrap=True)


def comparison_columns(frame: pd.DataFrame) -> list[Column]:
    """Return the columns of a run's comparison, one per method."""
    columns = [Column("", list(frame.index), "left")]
    for name in frame.columns:
        cells = [cell(row, frame.loc[row, name]) for row in frame.index]
        columns.append(Column(name, cells, style="bold" if name == CHOSEN else None))
    return columns


def print_front(front: Front, path: Path, console: Console) -> None:
    """Print a front by rising cost, the answer of the run, and which points are proved."""
    shown = front.thinned(_FRONT_LINES)
    unit, names = front.constraint.unit, shown.columns[: shown.columns.get_loc(front.per_sample)]
    columns = [
        Column("cost, %", [f"{100 * share:.2f}" for share in shown["share"]]),
        *_other_share(front.constraint, shown["cost"].tolist()),
        Column("per sample", [format_amount(cost, unit) for cost in shown[front.per_sample]]),
        Column(front.header, [f"{value:.6f}" for value in shown["value"]]),
        Column(front.proof_label, ["yes" if proved else "no" for proved in shown["proved"]]),
        *(_choice_column(name, shown[name]) for name in names),
    ]
    print_table(columns, console)
    if len(shown) < len(front.table):
        console.print(
            f"{len(shown)} of {len(front.table):,} points are shown, with the nearest to the "
            f"budgets of the run; {path} holds all {len(front.table):,}.",
            soft_wrap=True,
        )
    if front.answer is not None:
        console.print(_answer(front.answer, front.constraint), soft_wrap=True)
    console.print(front.sentence, soft_wrap=True)
    console.print(f"written: {path}", soft_wrap=True)


def _other_share(constraint: Constraint, costs: Sequence[int]) -> list[Column]:
    """Return the share with vision next to the decoder's, or the reverse, for costs in FLOPs."""
    vision = constraint.vision
    if vision is None:
        return []
    cells = [f"{100 * vision.other_share(cost, constraint.stock):.2f}" for cost in costs]
    return [Column(f"{vision.other_words}, %", cells)]


def _choice_column(name: str, values: pd.Series) -> Column:
    """Return a parameter as a column, or the policies' names, which are long."""
    named = name == "policy"
    return Column(name, list(map(str, values)), "left" if named else "right", breaks=named)


def _answer(answer: Answer, constraint: Constraint) -> str:
    """Return the answer of a run in one line."""
    measured = "KL not measured" if answer.kl is None else f"measured KL {answer.kl:.6f} nats"
    return (
        f"answer of the run: {answer.policy}, {constraint.describe_both(answer.cost)}, {measured}"
    )


def print_scores(scores: Scores, console: Console) -> None:
    """Print the accuracy of original and policy per family, and Rel. Avg."""
    original, policy = scores.original.by_family(), scores.policy.by_family()
    sizes = Counter(scores.original.families)
    ratios = [
        f"{100 * policy[name] / score:.1f}%" if score else "-" for name, score in original.items()
    ]
    columns = [
        Column("family", list(original), "left"),
        Column("original", [f"{100 * score:.1f}%" for score in original.values()]),
        Column("policy", [f"{100 * policy[name]:.1f}%" for name in original]),
        Column("ratio", ratios),
        Column("samples", [str(sizes[name]) for name in original]),
    ]
    print_table(columns, console)
    count, changed = len(scores.original.texts), scores.changed
    relative = f"Rel. Avg. {100 * scores.relative:.1f}%"
    if not any(original.values()):
        relative = "Rel. Avg. is undefined, because the original answers no question correctly"
    console.print(
        f"{relative} ({counted(len(original), 'family', 'families')}, "
        f"{counted(count, 'sample')}); {counted(changed, 'answer')} changed",
        soft_wrap=True,
    )
    if scores.flops is not None:
        console.print(f"Prefill: {100 * scores.flops:.1f}% of the original's FLOPs.")
    console.print(
        f"On questions like these, at most {100 * scores.worse:.1f}% of the answers become worse "
        "(95% confidence, if the policy was chosen without these samples).",
        soft_wrap=True,
    )
    if few := [family for family, size in sizes.items() if size < _FEW_SAMPLES]:
        console.print(
            f"{counted(len(few), 'family has', 'families have')} fewer than {_FEW_SAMPLES} "
            "samples: a ratio of so few answers is rough, above 100% where the original missed "
            "more of them, and Rel. Avg. is the mean of the ratios; give more --samples.",
            soft_wrap=True,
        )
    if scores.cut:
        console.print(f"{scores.cut}.", soft_wrap=True)
    if scores.dropped:
        console.print(
            f"Excluded {counted(scores.dropped, 'sample')} on which the policy was searched, or "
            "which share an image or a group with those.",
            soft_wrap=True,
        )


def print_served_scores(served: ServedScores, console: Console) -> None:
    """Print the accuracy of vLLM without and with the policy, and the divergence of the policy."""
    print_scores(served.scores, console)
    console.print(f"KL of the next token behind the prompt: {served.kl.mean():.4g} nats (mean)")
    if served.reported:
        found = [f"{name.rstrip('%, ')} {value:.4g}" for name, value in served.reported.items()]
        console.print(
            f"The run reported with transformers, on its held-out samples: {', '.join(found)}.",
            soft_wrap=True,
        )


def print_analysis(analysis: Analysis, files: Sequence[Path], console: Console) -> None:
    """Print the description of an analysis and its files."""
    console.print(analysis.text, soft_wrap=True)
    console.print(f"written: {', '.join(map(str, files))}", soft_wrap=True)


def print_compared(frame: pd.DataFrame, console: Console) -> None:
    """Print Rel. Avg., KL, costs, policies measured and settings, by method and budget."""
    rows = frame.to_dict("records")
    if is_defined(frame):
        kept = [f"{row['rel_avg']:.1f} ({row['low']:.0f}-{row['high']:.0f})" for row in rows]
        print_table(_by_budget("Rel. Avg., %", frame, kept), console)
    spent = [f"{row['kl']:.3f}, {100 * row['share']:.1f}" for row in rows]
    print_table(_by_budget("KL, nats; FLOPs, %", frame, spent), console)
    if "prefill_share" in frame:
        both = [f"{100 * row['share']:.1f}, {_share(row['prefill_share'])}" for row in rows]
        print_table(_by_budget("FLOPs, %; with vision, %", frame, both), console)
    kept = [f"{100 * row['kv_share']:.1f}, {_count(row['evaluations'])}" for row in rows]
    print_table(_by_budget("KV, %; policies measured", frame, kept), console)
    tuned = frame[frame["setting"] != ""]
    if len(tuned):
        print_table(_by_budget("setting chosen", tuned, list(tuned["setting"])), console)


def _share(share: float) -> str:
    return "-" if pd.isna(share) else f"{100 * share:.1f}"


def _count(number: float) -> str:
    return "-" if pd.isna(number) else f"{number:,.0f}"


def print_draws(frame: pd.DataFrame, console: Console) -> None:
    """Print the mean over draws with its interval, and the spread, by method and budget."""
    rows = frame.to_dict("records")
    metrics = [("kl", "KL, nats", 3)]
    if is_defined(frame):
        metrics.insert(0, ("rel_avg", "Rel. Avg., %", 1))
    for name, title, digits in metrics:
        cells = [
            f"{row[name]:.{digits}f} ± {row[f'{name}_sd']:.{digits}f} "
            f"({row[f'{name}_low']:.{digits}f}-{row[f'{name}_high']:.{digits}f})"
            f"{'*' if row[f'{name}_certain'] else ''}"
            for row in rows
        ]
        print_table(_by_budget(title, frame, cells), console)
    console.print(
        "mean ± standard deviation over draws (95 % interval over draws and test samples); "
        "*: certainly different from opsearch",
        soft_wrap=True,
    )


def _by_budget(title: str, frame: pd.DataFrame, cells: Sequence[str]) -> list[Column]:
    """Return the columns of a table of the cells, methods as rows and budgets as columns."""
    budgets = list(dict.fromkeys(frame["budget"]))
    methods = list(dict.fromkeys(frame["method"]))
    at = dict(zip(zip(frame["method"], frame["budget"], strict=True), cells, strict=True))
    columns = [Column(title, methods, "left")]
    for budget in budgets:
        columns.append(Column(budget, [at.get((method, budget), "-") for method in methods]))
    return columns
