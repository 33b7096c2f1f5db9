"""opsearch: decide, per decoder layer and module, which visual tokens are worth computing.

>>> from opsearch import Policy
>>> policy = Policy.from_pretrained("runs/demo")
>>> with policy.apply(model):
...     model.generate(**inputs)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from opsearch.version import __version__

if TYPE_CHECKING:
    from opsearch.models.pruned.cuda_graphs import Graphs
    from opsearch.policy.policy import Policy
    from opsearch.policy.ranker import RankerSpec
    from opsearch.runs.config import RunConfig

__all__ = ["Graphs", "Policy", "RankerSpec", "RunConfig", "__version__"]

_HOMES = {
    "Graphs": "opsearch.models.pruned.cuda_graphs",
    "Policy": "opsearch.policy.policy",
    "RankerSpec": "opsearch.policy.ranker",
    "RunConfig": "opsearch.runs.config",
}


def __getattr__(name: str) -> Any:
    """Import public names on first use: `opsearch --help` must not wait for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'opsearch' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
