"""Parts of a decoder's layers whose kept keys share the blocks of a request.

vLLM gives all layers of a KV cache group the same blocks, and wants groups with the same number of
layers. Layers that keep similar numbers of keys go together, so that few blocks stay unused.
"""

from __future__ import annotations

from typing import Any

from opsearch.policy.counts import KV
from opsearch.serving.served_policy import ServedPolicy

_TYPICAL = 1024  # visual tokens by which layers are compared
_MOST = 8  # parts; each one costs a block table, and metadata of its own in every step
_NEAR = 0.02  # share of the keys that fewer parts may waste


def key_parts(served: ServedPolicy) -> list[tuple[int, ...]]:
    """Return the layers of each part; no part if all layers keep all keys that enter the decoder.

    Args:
        served: The policy.
    """
    kept = served.counts(_TYPICAL)[:, KV].tolist()
    if min(kept) == served.entering(_TYPICAL):
        return []
    layers = sorted(range(len(kept)), key=lambda layer: (-kept[layer], layer))
    sizes = [size for size in range(1, len(kept) + 1) if len(kept) % size == 0]
    options = [_cut(layers, size) for size in sizes if len(kept) // size <= _MOST]
    used = [sum(len(part) * kept[part[0]] for part in parts) for parts in options]
    near = min(used) + _NEAR * len(kept) * max(kept)
    fitting = [parts for parts, keys in zip(options, used, strict=True) if keys <= near]
    return min(fitting, key=len)


def _cut(layers: list[int], size: int) -> list[tuple[int, ...]]:
    return [tuple(layers[start : start + size]) for start in range(0, len(layers), size)]


def keys_held(served: ServedPolicy, layers: tuple[int, ...], visual: Any, n_visual: int) -> Any:
    """Return how many slots the first rows of a prompt need in a part, at most, int64[P + 1].

    The ranks of the rows are not known, so that all rows of a chunk may be among the kept ones.

    Args:
        served: The policy.
        layers: Layers of the part.
        visual: Mask of the visual rows that the engine holds, bool[P].
        n_visual: Number of visual tokens of the prompt.
    """
    limit = int(served.counts(n_visual)[list(layers), KV].max())
    seen = visual.new_zeros(len(visual) + 1, dtype=int)
    seen[1:] = visual.cumsum(0)
    text = seen.new_tensor(range(len(seen))) - seen
    return text + seen.clamp(max=limit)
