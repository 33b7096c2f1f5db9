"""Stored results of the last `opsearch compare` of a run; loads no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opsearch.analysis.equal_cost import Comparison, MethodScores
from opsearch.costs.base import SampleSize
from opsearch.costs.flops import Flops, flops
from opsearch.costs.kv import KVBytes
from opsearch.costs.prefill import Prefill
from opsearch.costs.shape import Shape
from opsearch.errors import RunFolderError
from opsearch.evaluation.prefill_file import prefill_time
from opsearch.evaluation.reducers import Reduction
from opsearch.measure.storage.records import (
    COMPARED,
    COMPARED_CALIBRATION,
    Compared,
    StoredAnswer,
    StoredSample,
)
from opsearch.measure.storage.store import Store
from opsearch.policy.baseline import EVALUATIONS, SETTING
from opsearch.policy.builders import identity
from opsearch.policy.policy import Policy
from opsearch.problem.budget import total_cost
from opsearch.runs.run_folder import RunFolder


def stored_comparison(folder: Path) -> Comparison:
    """Return the compared methods of a run.

    Raises:
        RunFolderError: The run holds no comparison.
    """
    run = RunFolder(folder)
    with Store(run.measurements, result=run.name) as store:
        compared = store.compared()
        if not compared:
            raise RunFolderError(
                f"{folder} holds no comparison; run `opsearch compare {folder} --budget 20% "
                "--budget 30%`"
            )
        shape = Shape(**store.facts["shape"])
        splits = store.samples(COMPARED_CALIBRATION), store.samples(COMPARED)
        entries = tuple(_method_scores(row, run, store, shape, *splits) for row in compared[1:])
        families = tuple(sample.family for sample in splits[1])
        original = _answers(store, _keys(identity(shape.layers), splits[1]), splits[1])
        return Comparison("FLOPs", families, _scores(original), entries, _cut(original))


def _method_scores(
    row: Compared,
    run: RunFolder,
    store: Store,
    shape: Shape,
    calibration: Sequence[StoredSample],
    tested: Sequence[StoredSample],
) -> MethodScores:
    """Return the costs, divergences and scores of a method."""
    sizes = [sample.size for sample in calibration]
    reduction = Reduction.parse(row.policy)
    facts: Mapping[str, Any] = {EVALUATIONS: 0}
    if reduction is None:
        policy = Policy.from_text(row.policy, run.measurements)
        facts = policy.provenance
        name, costs = policy.name, _costs(policy, shape, sizes)
        costs |= _times(policy, run.prefill)
        keys = [_keys(policy, samples) for samples in (calibration, tested)]
    else:
        left = reduction.sizes([size.n_other for size in sizes])
        name, costs = reduction.name, _costs(identity(shape.layers), shape, left)
        costs |= _times(reduction, run.prefill)
        keys = [[reduction.key] * len(samples) for samples in (calibration, tested)]
    cost, stock = costs.pop("flops"), _costs(identity(shape.layers), shape, sizes)
    costs["macs_share"] = costs["macs"] / stock["macs"]
    costs["kv_share"] = costs["kv_bytes"] / stock["kv_bytes"]
    whole = costs.pop("prefill", None)
    if whole is not None and "prefill" in stock:
        costs["prefill_share"] = whole / stock["prefill"]
    answers = _answers(store, keys[1], tested)
    return MethodScores(
        budget=row.budget,
        method=row.method,
        policy=name,
        cost=cost,
        share=cost / stock["flops"],
        kl_calibration=_divergences(store, keys[0], calibration),
        kl=_divergences(store, keys[1], tested),
        scores=_scores(answers),
        cut=_cut(answers),
        further=costs,
        setting=facts.get(SETTING, ""),
        evaluations=facts.get(EVALUATIONS),
    )


def _costs(policy: Policy, shape: Shape, sizes: Sequence[SampleSize]) -> dict[str, float]:
    """Return means per sample: FLOPs, MACs as papers count them, and bytes of the KV cache.

    MACs count visual tokens only, and all operations of the policy including dead ones. FLOPs of
    the whole prefill are added if those of all images are known.
    """
    macs = sum(int(flops(policy.resolve(n), n, 0, shape, "macs")) for n, *_ in sizes)
    totals = {
        "flops": total_cost(Flops(shape), policy, sizes),
        "macs": macs,
        "kv_bytes": total_cost(KVBytes(shape), policy, sizes),
    }
    if all(size.image_flops is not None for size in sizes):
        totals["prefill"] = total_cost(Prefill(shape), policy, sizes)
    return {kind: total / len(sizes) for kind, total in totals.items()}


def _times(method: Policy | Reduction, path: Path) -> dict[str, float]:
    """Return the prefill times in ms and their ratio to the original's, empty if not measured."""
    time = prefill_time(method, path)
    if time is None:
        return {}
    return {
        "prefill_ms": time.policy,
        "ranking_ms": time.ranking,
        "original_ms": time.original,
        "prefill_ratio": time.ratio,
    }


def _keys(policy: Policy, samples: Sequence[StoredSample]) -> list[str]:
    """Return the key of the policy's measurements for each sample."""
    return [policy.canonical(sample.n_visual) for sample in samples]


def _divergences(
    store: Store, keys: Sequence[str], samples: Sequence[StoredSample]
) -> NDArray[np.float64]:
    """Return the KL under these keys; that of the original is 0 and not stored."""
    layers = Shape(**store.facts["shape"]).layers
    stock = {n: identity(layers).canonical(n) for n in {s.n_visual for s in samples}}
    found = store.get(keys)
    return np.array(
        [
            0.0 if key == stock[sample.n_visual] else found[key, sample.item]
            for key, sample in zip(keys, samples, strict=True)
        ]
    )


def _answers(
    store: Store, keys: Sequence[str], samples: Sequence[StoredSample]
) -> list[StoredAnswer]:
    found = store.answers(keys)
    return [found[key, sample.item] for key, sample in zip(keys, samples, strict=True)]


def _scores(answers: Sequence[StoredAnswer]) -> NDArray[np.float64]:
    return np.array([answer.score for answer in answers])


def _cut(answers: Sequence[StoredAnswer]) -> int:
    return sum(answer.cut for answer in answers)
