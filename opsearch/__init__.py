"""opsearch: decide, per decoder layer and module, which visual tokens are worth computing.

    import opsearch

    model, processor = opsearch.load_model("llava-hf/llava-1.5-7b-hf", dtype="bfloat16")
    items = opsearch.load_items("calib.jsonl")
    result = opsearch.search(model, processor, items, budget="30%")
    result.save("runs/llava")
    with result.policy.apply(model):
        model.generate(**inputs)

Authors of plug-ins also import from `opsearch.problem` and `opsearch.testing`.
"""

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

from opsearch.version import __version__

if TYPE_CHECKING:
    from opsearch.adaptive.policy_set import PolicySet
    from opsearch.commands.python_api import (
        adapt,
        compare,
        cost_share,
        evaluate,
        front,
        measure_kl,
        run,
        search,
        solve,
    )
    from opsearch.commands.run_view import Run
    from opsearch.commands.search_result import SearchResult
    from opsearch.data.item import Item
    from opsearch.data.load import load_items
    from opsearch.errors import OpsearchError
    from opsearch.measure.workers.cluster import Workers
    from opsearch.models.pruned.cuda_graphs import Graphs
    from opsearch.models.spec import load_model
    from opsearch.policy import builders
    from opsearch.policy.baseline import Baseline
    from opsearch.policy.policy import Policy
    from opsearch.policy.ranker import RankerSpec
    from opsearch.problem.budget import Budget
    from opsearch.registry import register
    from opsearch.runs.config import RunConfig

__all__ = [
    "Baseline",
    "Budget",
    "Graphs",
    "Item",
    "OpsearchError",
    "Policy",
    "PolicySet",
    "RankerSpec",
    "Run",
    "RunConfig",
    "SearchResult",
    "Workers",
    "__version__",
    "adapt",
    "builders",
    "compare",
    "cost_share",
    "evaluate",
    "front",
    "load_items",
    "load_model",
    "measure_kl",
    "register",
    "run",
    "search",
    "solve",
]

_HOMES = {
    "Baseline": "opsearch.policy.baseline",
    "Budget": "opsearch.problem.budget",
    "Graphs": "opsearch.models.pruned.cuda_graphs",
    "Item": "opsearch.data.item",
    "OpsearchError": "opsearch.errors",
    "Policy": "opsearch.policy.policy",
    "PolicySet": "opsearch.adaptive.policy_set",
    "RankerSpec": "opsearch.policy.ranker",
    "Run": "opsearch.commands.run_view",
    "RunConfig": "opsearch.runs.config",
    "SearchResult": "opsearch.commands.search_result",
    "Workers": "opsearch.measure.workers.cluster",
    "adapt": "opsearch.commands.python_api",
    "builders": "opsearch.policy",
    "compare": "opsearch.commands.python_api",
    "cost_share": "opsearch.commands.python_api",
    "evaluate": "opsearch.commands.python_api",
    "front": "opsearch.commands.python_api",
    "load_items": "opsearch.data.load",
    "load_model": "opsearch.models.spec",
    "measure_kl": "opsearch.commands.python_api",
    "register": "opsearch.registry",
    "run": "opsearch.commands.python_api",
    "search": "opsearch.commands.python_api",
    "solve": "opsearch.commands.python_api",
}

# Progress is logged too, for users of the library who set a handler.
logging.getLogger("opsearch").addHandler(logging.NullHandler())


def __dir__() -> list[str]:
    """Return the public names, of which some are not imported yet."""
    return __all__


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that `opsearch --help` does not load torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'opsearch' has no attribute {name!r}")
    home = import_module(_HOMES[name])
    return import_module("opsearch.policy.builders") if name == "builders" else getattr(home, name)
