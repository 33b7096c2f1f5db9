"""Results of commands for programs: the contents of the files that the commands write."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opsearch.policy.file import policy_text
from opsearch.policy.policy import Policy
from opsearch.runs.run_folder import RunFolder

if TYPE_CHECKING:
    from opsearch.commands.analyze import Analysis
    from opsearch.commands.dry_run import DryRun
    from opsearch.commands.engine_eval import ServedScores
    from opsearch.commands.front import Front
    from opsearch.commands.search_result import SearchResult
    from opsearch.evaluation.evaluate import Scores
    from opsearch.evaluation.generate import Trial
    from opsearch.evaluation.lmms.scores import Evaluation


def search_json(result: SearchResult) -> dict[str, Any]:
    """Return a search: its folder, solution.json, policy_config.json and comparison.csv."""
    solution = json.loads(RunFolder(result.folder).solution.read_text(encoding="utf-8"))
    found = {"folder": result.folder, "solution": solution, "policy": policy_json(result.policy)}
    if result.comparison is not None:
        found["comparison"] = result.comparison.to_dict()
    if result.images is not None:
        found["images"] = result.images
    if result.prefill is not None:
        found["prefill"] = dataclasses.asdict(result.prefill)
    return found


def policy_json(policy: Policy) -> dict[str, Any]:
    """Return policy_config.json."""
    content: dict[str, Any] = json.loads(policy_text(policy))
    return content


def dry_run_json(plan: DryRun) -> dict[str, Any]:
    """Return the planned work: estimates and seconds by objective."""
    limit, floor = plan.constraint.limit, plan.constraint.floor
    return {
        "space": plan.space.name,
        "policies": len(plan.space.points) if plan.space.listed else None,
        "feasible": plan.feasible,
        "limit": plan.constraint.describe_both(limit),
        "floor": plan.constraint.describe_both(floor),
        "estimates": {name: dataclasses.asdict(each) for name, each in plan.estimates.items()},
        "seconds": plan.seconds,
        "memory": plan.memory.memory,
        "device": plan.device,
        "chosen": plan.chosen,
        "with_more": plan.with_more,
    }


def front_json(front: Front, path: Path) -> dict[str, Any]:
    """Return a front: the rows of its file."""
    facts = {"objective": front.objective, "unit": front.unit, "cost": front.constraint.name}
    answer = None if front.answer is None else dataclasses.asdict(front.answer)
    points = {"points": front.table, "answer": answer}
    return {**facts, **points, "sentence": front.sentence, "file": path}


def scores_json(scores: Scores) -> dict[str, Any]:
    """Return accuracies by family as shares, and Rel. Avg. as a ratio."""
    original, policy = scores.original.by_family(), scores.policy.by_family()
    sizes = Counter(scores.original.families)
    families = {
        name: {
            "original": value,
            "policy": policy[name],
            "ratio": policy[name] / value if value else None,
            "samples": sizes[name],
        }
        for name, value in original.items()
    }
    return {
        "families": families,
        "relative": scores.relative,
        "worse_at_most": scores.worse,
        "flops": scores.flops,
        "samples": len(scores.original.texts),
        "changed": scores.changed,
        "dropped": scores.dropped,
    }


def served_scores_json(served: ServedScores) -> dict[str, Any]:
    """Return the scores, the divergence, and what the run of the policy reported."""
    return {
        **scores_json(served.scores),
        "kl": float(served.kl.mean()),
        "reported": served.reported,
    }


def evaluation_json(evaluation: Evaluation) -> dict[str, Any]:
    """Return the scores of every task, and their mean ratio with its interval."""
    tasks = {
        task.name: {
            "original": float(task.original.mean()),
            "policy": float(task.policy.mean()),
            "ratio": task.ratio,
            "samples": len(task.original),
            "official": task.official,
            "changed": task.changed,
            "dropped": task.dropped,
        }
        for task in evaluation.tasks
    }
    return {
        "tasks": tasks,
        "relative": evaluation.relative,
        "interval": evaluation.interval(),
        "official_relative": evaluation.official_relative,
        "limit": evaluation.limit,
    }


def analysis_json(analysis: Analysis, files: Sequence[Path]) -> dict[str, Any]:
    """Return an analysis: the rows of its tables by file name, its text, its files."""
    return {"tables": analysis.tables, "text": analysis.text, "files": list(files)}


def trial_json(trial: Trial) -> dict[str, Any]:
    """Return a prompt with both answers and their costs."""
    n_visual, n_other = trial.sample.shape
    return {
        "name": trial.applied.name,
        "of_set": trial.of_set or None,
        "prompt": trial.sample.item.question,
        "answers": trial.sample.item.answers,
        "visual_tokens": n_visual,
        "visual_tokens_of_policy": trial.read.n_visual,
        "other_tokens": n_other,
        "original": dataclasses.asdict(trial.original),
        "policy": dataclasses.asdict(trial.policy),
    }
