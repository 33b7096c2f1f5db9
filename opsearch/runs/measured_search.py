"""Search with the model of an open session; `search` itself needs no model."""

from __future__ import annotations

from opsearch.measure.engine import SampleMeasure
from opsearch.objectives.additive import Additive
from opsearch.problem.problem import Problem
from opsearch.problem.solution import Solution
from opsearch.runs.prepare import Prepared
from opsearch.runs.search import search
from opsearch.runs.session import Session


def measured_search(prepared: Prepared, session: Session) -> tuple[Problem, Solution]:
    """Search with the model of a session, then measure each parameter alone for the figures.

    Raises as `search` does.
    """
    settings, engine, stages = prepared.settings, session.engine, session.progress
    with stages.stage(f"measuring {prepared.choice.objective.name}, solving", "FLOPs") as tick:
        floor = engine.noise_floor(prepared.calibration, tick)
        measure = SampleMeasure(engine, prepared.calibration, tick)
        found = search(prepared.choice, settings, prepared.constraints, measure, floor)
    if settings.space.parameters_act_alone:
        with stages.stage("measuring each parameter alone", "FLOPs") as tick:
            single = Additive.from_settings(settings.proxy).policies(settings.space)
            engine.measure(single, prepared.calibration, tick)
    return found
