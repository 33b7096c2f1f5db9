"""Numbers of a store and of a pass, for tests only."""

import numpy as np

from opsearch.measure.layout import ONE
from opsearch.measure.planning.flops import held_elements


def stored_count(store):
    """Return the number of stored measurements of the store's context."""
    return sum(1 for _ in store.everything())


def trie_bytes(trie, layout, shape, itemsize, size=ONE):
    """Return the peak number of bytes that one pass holds."""
    return itemsize * int((held_elements(trie, layout, shape) @ np.array(size)).max())
