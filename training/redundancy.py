"""Redundancy of an exported model: accuracy by depth, operation and family.

    python -m training.redundancy --model FOLDER --out FILE.json

For every depth d, visual tokens stop attending (q), stop passing the MLPs (mlp), stop both (q and
mlp), or stop being attended to (kv) from layer d on. A family's depth is the smallest d from which
on it always keeps 95 % of its accuracy. The study also measures the accuracy with fewer visual
tokens, the first of a ranking; a ranking by CLS attention should beat an even spread.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from opsearch.data.embedded import embedded
from opsearch.data.item import Item
from opsearch.policy.builders import depth, tokens
from opsearch.policy.policy import Policy
from opsearch.policy.ranker import RankerSpec
from training.batches import NAMES
from training.evaluate import Subject, accuracy

KEPT = 0.95
OPERATIONS = ("q", "mlp", "q and mlp", "kv")
RANKERS = ("cls", "uniform")
SHARES = ("16/25", "9/25", "4/25")


def ending(operation: str, layers: int, d: int) -> Policy:
    """Return the policy that ends an operation on visual tokens at layer d."""
    d_q = d if operation in ("q", "q and mlp") else layers
    d_mlp = d if operation in ("mlp", "q and mlp") else layers
    return depth(layers, d_q, d if operation == "kv" else layers, d_mlp)


def depth_needed(accuracies: Sequence[float]) -> int:
    """Return the depth from which on 95 % of the last (the original's) accuracy is kept."""
    short = [d for d, accuracy in enumerate(accuracies) if accuracy < KEPT * accuracies[-1]]
    return max(short, default=-1) + 1


def study(folder: Path, count: int) -> dict[str, Any]:
    """Measure all depths of all operations on the first items of the held-out split."""
    subject, items = Subject(folder), embedded("held-out", count)
    layers = subject.model.config.text_config.num_hidden_layers
    result: dict[str, Any] = {"items": count, "split": "held-out", "kept": KEPT}
    for operation in OPERATIONS:
        policies = [ending(operation, layers, d) for d in range(layers + 1)]
        scores = [_by_family(items, subject.answers(items, policy)) for policy in policies]
        families = {name: [round(score[name], 4) for score in scores] for name in scores[0]}
        needed = {name: depth_needed(accuracies) for name, accuracies in families.items()}
        result[operation] = {"depth": needed, "accuracy": families}
    for ranker in RANKERS:
        policies = [tokens(layers, share, RankerSpec(ranker)) for share in SHARES]
        scores = [_by_family(items, subject.answers(items, policy)) for policy in policies]
        result[f"tokens by {ranker}"] = dict(zip(SHARES, scores, strict=True))
    return result


def write_study(path: Path, result: dict[str, Any]) -> None:
    """Write a study as JSON."""
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _by_family(items: Sequence[Item], answers: dict[str, list[str]]) -> dict[str, float]:
    scores = {n: accuracy([i for i in items if i.family == n], answers) for n in NAMES}
    return {**scores, "mean": sum(scores.values()) / len(scores)}


def main() -> None:
    """Write the study of a folder as JSON and print the depths."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="folder of an exported model")
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    parser.add_argument("--items", type=int, default=600, help="questions")
    args = parser.parse_args()
    torch.set_num_threads(1)
    result = study(args.model, args.items)
    write_study(args.out, result)
    for operation in OPERATIONS:
        print(operation, result[operation]["depth"])
    for ranker in RANKERS:
        by_share = result[f"tokens by {ranker}"].items()
        print(ranker, {share: round(scores["mean"], 3) for share, scores in by_share})


if __name__ == "__main__":
    main()
