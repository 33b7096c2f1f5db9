"""`opsearch bench --peers`: time of published token-selection rules against the original.

Rankers before the decoder keep 2/9 of the visual tokens in all layers (128 of 576); methods inside
it do as published. Only prefills are timed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from opsearch.bench.command import Setup, check_place, loaded, rows_to
from opsearch.bench.latency import Row, latency_row
from opsearch.bench.pairs import timed_pairs
from opsearch.costs.shape import Shape
from opsearch.errors import OpsearchError
from opsearch.models.families import family_for
from opsearch.models.loading import load_config
from opsearch.policy import builders
from opsearch.policy.policy import Policy
from opsearch.policy.ranker import RankerSpec
from opsearch.policy.schedule import before_decoder
from opsearch.progress import Stages

_SHARE = "2/9"


def bench_peers(setup: Setup, stages: Stages, out: Path | None = None) -> list[Row]:
    """Time every rule that the model supports in alternation with the original.

    Args:
        setup: The workload.
        stages: Progress.
        out: File to append each row to.

    Returns:
        A row per rule.
    """
    if setup.shape:
        raise OpsearchError(
            f"--peers times rules that read pictures, and random models of --shape {setup.shape} "
            "have none; leave it out, or run `python -m opsearch.bench --suite rankers`"
        )
    check_place(setup)
    rules, rows = peers(load_config(setup.model)), []
    with stages.stage("loading the model"):
        model, work = loaded(list(rules.values()), setup)
    shape = Shape.from_config(model.config)
    with stages.stage(f"timing {len(rules)} rules") as tick, rows_to(out) as write:
        for name, policy in rules.items():
            pairs = list(timed_pairs(model, work, policy, 1, setup.repeats))
            named = {"rule": name, "before_decoder": before_decoder(policy) is not None}
            rows.append({**named, **latency_row(shape, policy, work, pairs)})
            write(rows[-1])
            tick(len(rows), len(rules))
    return rows


def peers(config: Any) -> dict[str, Policy]:
    """Return the supported rules by name: rankers, then methods inside the decoder."""
    layers = Shape.from_config(config).layers
    found = {
        name: builders.tokens(layers, _SHARE, RankerSpec(name))
        for name in family_for(config.model_type).rankers(config)
    }
    found["FastV"] = builders.fastv(layers)
    found["PyramidDrop"] = builders.pyramiddrop(layers)
    found["SparseVLM"] = builders.sparsevlm(layers)
    if layers == 32:  # the published recipe's
        found["FitPrune"] = builders.fitprune(builders.FITPRUNE_60)
    return found
