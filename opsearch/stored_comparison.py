"""Reads the last `opsearch compare` of a run for the analyses; loads no model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from opsearch.analysis.equal_cost import Comparison, Entry
from opsearch.bench.compared import prefill_time
from opsearch.budget import total_cost
from opsearch.builders import identity
from opsearch.costs.flops import Flops, flops
from opsearch.costs.kv import KVBytes
from opsearch.costs.shape import Shape
from opsearch.errors import RunFolderError
from opsearch.measure.store import COMPARED, COMPARED_CALIBRATION, Store, StoredSample
from opsearch.policy import Policy
from opsearch.policy_file import parse_policy
from opsearch.run_folder import RunFolder


def stored_comparison(folder: Path) -> Comparison:
    """The compared methods of the run in `folder`; RunFolderError when nothing was compared."""
    run = RunFolder(folder)
    with Store(run.measurements) as store:
        compared = store.compared()
        if not compared:
            raise RunFolderError(
                f"{folder} holds no comparison; `opsearch compare {folder} --budget 20% "
                "--budget 30%` makes one"
            )
        shape = Shape(**store.facts["shape"])
        cost_of, original = Flops(shape), identity(shape.layers)
        calibration, judged = store.samples(COMPARED_CALIBRATION), store.samples(COMPARED)
        pairs = [(s.n_visual, s.n_other) for s in calibration]
        stock = total_cost(cost_of, original, pairs)
        entries = []
        for row in compared[1:]:
            policy = parse_policy(row.policy, run.measurements)
            cost = total_cost(cost_of, policy, pairs)
            further = _further(policy, shape, pairs) | _times(policy, run.prefill)
            entries.append(
                Entry(
                    row.budget,
                    row.method,
                    policy.name,
                    cost / len(pairs),
                    cost / stock,
                    _divergences(store, policy, calibration),
                    _divergences(store, policy, judged),
                    _scores(store, policy, judged),
                    further,
                )
            )
        families = tuple(sample.family for sample in judged)
        return Comparison("FLOPs", families, _scores(store, original, judged), tuple(entries))


def _further(policy: Policy, shape: Shape, pairs: Sequence[tuple[int, int]]) -> dict[str, float]:
    """Means per sample and shares of the stock model: MACs as papers count them, and KV bytes.

    MACs of the visual tokens alone and of all operations that the policy lists, dead ones too.
    """
    listed = [int(flops(policy.resolve(n), n, 0, shape, "macs")) for n, _ in pairs]
    macs = sum(Flops(shape, "macs").stock(n, 0) for n, _ in pairs)
    cost = KVBytes(shape)
    kept, kv = (total_cost(cost, each, pairs) for each in (policy, identity(shape.layers)))
    return {
        "macs": sum(listed) / len(pairs),
        "macs_share": sum(listed) / macs,
        "kv_bytes": kept / len(pairs),
        "kv_share": kept / kv,
    }


def _times(policy: Policy, path: Path) -> dict[str, float]:
    """Milliseconds of the prefill where they were taken, and their ratio to the original's."""
    time = prefill_time(policy, path)
    if time is None:
        return {}
    return {
        "prefill_ms": time.policy,
        "ranking_ms": time.ranking,
        "original_ms": time.original,
        "prefill_ratio": time.ratio,
    }


def _divergences(
    store: Store, policy: Policy, samples: Sequence[StoredSample]
) -> NDArray[np.float64]:
    """KL of a policy on every sample; that of the original is 0 and not stored."""
    keys = [policy.canonical(sample.n_visual) for sample in samples]
    stock = {n: identity(policy.num_layers).canonical(n) for n in {s.n_visual for s in samples}}
    found = store.get(keys)
    return np.array(
        [
            0.0 if key == stock[sample.n_visual] else found[key, sample.item]
            for key, sample in zip(keys, samples, strict=True)
        ]
    )


def _scores(store: Store, policy: Policy, samples: Sequence[StoredSample]) -> NDArray[np.float64]:
    keys = [policy.canonical(sample.n_visual) for sample in samples]
    found = store.answers(keys)
    return np.array(
        [found[key, sample.item].score for key, sample in zip(keys, samples, strict=True)]
    )
