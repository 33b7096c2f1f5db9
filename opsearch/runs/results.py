"""Results of a solve in a run folder: policy, record, front and their figures."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, Protocol

import numpy as np
import pandas as pd

from opsearch.analysis.front import front_table, save_front_figure
from opsearch.analysis.heatmap import save_heatmap
from opsearch.data.groups import Seen
from opsearch.files import write_atomic, write_text
from opsearch.policy.policy import Policy
from opsearch.problem.objective import Separable, Table
from opsearch.problem.problem import Problem
from opsearch.problem.solution import Solution, statement
from opsearch.runs.config import RunConfig
from opsearch.runs.run_folder import RunFolder


class Searched(Protocol):
    """Facts of a search that the record of its solution contains."""

    @property
    def config(self) -> RunConfig:
        """The settings, with all defaults resolved."""

    @property
    def model_type(self) -> str:
        """Model family."""

    @property
    def seen(self) -> Seen | None:
        """The calibration samples, which evaluation leaves out; None if they are not known."""


def save_solution(
    searched: Searched,
    problem: Problem,
    solution: Solution,
    folder: RunFolder,
    measured: int = 0,
) -> Policy:
    """Write policy, record, front and their figures, and return the policy as written.

    A front of an earlier solve that this one cannot draw is removed.

    Args:
        searched: The search.
        problem: Its problem.
        solution: Its solution.
        folder: The folder of the answer.
        measured: Policies that were measured for it; 0 if it used stored measurements.
    """
    if solution.policy is None:
        raise ValueError("a solution without a policy cannot be saved")
    facts = _facts(searched.config, problem, solution, measured)
    achieved = [
        f"{'predicted ' if c.timed else ''}{c.name} {c.describe(solution.costs[c.name])}"
        for c in problem.constraints
    ]
    policy = dataclasses.replace(
        solution.policy, model_type=searched.model_type, provenance=facts | {"cost": achieved}
    )
    policy.save_pretrained(folder.path)
    save_heatmap(policy, folder.policy_figure)
    record = facts | _details(searched, problem, solution)
    write_text(folder.solution, json.dumps(record, indent=2) + "\n")
    _save_front(problem, folder)
    return policy


def save_images(images: pd.DataFrame | None, folder: RunFolder) -> None:
    """Write a line for each image setting of a search, or remove those of an earlier one."""
    if images is None:
        folder.images.unlink(missing_ok=True)
    else:
        write_atomic(folder.images, lambda file: images.to_csv(file, index=False))


def _facts(
    config: RunConfig, problem: Problem, solution: Solution, measured: int
) -> dict[str, Any]:
    """Return the facts that both the policy and the record of its solution contain."""
    ended, _ = statement(solution.status, problem.objective)
    return {
        "model": config.model,
        "space": config.space,
        "budget": list(config.budget),
        "status": str(solution.status),
        "ended": ended,
        "solver": solution.solver,
        "objective": solution.objective,
        "value": solution.value,
        "unit": solution.unit,
        "verify": config.verify if measured else 0,
        "effort": config.effort,
        "measured": measured,
        "samples": problem.constraints[0].samples,
        "draw": config.seed,
        "seed": solution.seed,
    }


def _details(searched: Searched, problem: Problem, solution: Solution) -> dict[str, Any]:
    """Return the facts that only the record of the solution contains."""
    _, sentence = statement(solution.status, problem.objective)
    return {
        "settings": searched.config.results_of,
        "images": _images(solution.policy),
        "sentence": sentence,
        "point": solution.point,
        "costs": solution.costs,
        "limits": {c.name: c.limit for c in problem.constraints},
        "stock": {c.name: c.stock for c in problem.constraints},
        "units": {c.name: c.unit for c in problem.constraints},
        "vision": {
            c.name: dataclasses.asdict(c.vision)
            for c in problem.constraints
            if c.vision is not None
        },
        "bound": solution.bound,
        "gap": solution.gap,
        "error_bound": solution.error_bound,
        "evaluations": solution.evaluations,
        "seconds": solution.seconds,
        "note": solution.note,
        "complete": _complete(problem),
        "versions": solution.versions,
        **(dataclasses.asdict(searched.seen) if searched.seen else {}),
    }


def _images(policy: Policy | None) -> dict[str, Any] | None:
    """Return the image setting of a policy; None if it has none."""
    if policy is None or policy.images is None:
        return None
    return {"share": str(policy.images.share), "attributes": dict(policy.images.attributes)}


def _complete(problem: Problem) -> bool:
    """Return whether the objective has a value at every feasible point, where it is a table."""
    objective = problem.objective
    if not isinstance(objective, Table):
        return True
    return not np.isnan(objective.values[problem.feasible]).any()


def _save_front(problem: Problem, folder: RunFolder) -> None:
    objective = problem.objective
    if not problem.space.listed or not isinstance(objective, Table | Separable):
        folder.front.unlink(missing_ok=True)
        folder.front_figure.unlink(missing_ok=True)
        return
    constraint = problem.constraints[0]
    front = front_table(problem.space, constraint, objective.values)
    write_atomic(folder.front, lambda file: front.to_csv(file, index=False))
    save_front_figure(front, constraint, objective.name, objective.unit, folder.front_figure)
