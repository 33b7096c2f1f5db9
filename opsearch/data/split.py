"""Disjoint parts of a data set: no picture and no `group` of one part occurs in another.

The parts are drawn in the order of the rows, the calibration samples first, and rows are read only
until both parts are full. Where the groups of the calibration samples leave too few others, all
rows have been read, and whole groups are divided between the parts in proportion to their sizes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from opsearch.data.groups import Groups, Unseen
from opsearch.data.rows import Rows
from opsearch.progress import Tick


@dataclass(frozen=True)
class Split:
    """Samples of both parts, by their digests.

    Attributes:
        calibration: The calibration samples.
        heldout: The held-out samples.
    """

    calibration: tuple[str, ...]
    heldout: tuple[str, ...]


def split(rows: Rows, samples: int, heldout: int, tick: Tick | None = None) -> Split:
    """Draw calibration and held-out samples.

    Args:
        rows: The rows in the order of the draw.
        samples: Number of calibration samples.
        heldout: Number of held-out samples.
        tick: Called with the number of samples found and the number of those looked for.

    Returns:
        The first `samples` samples, and the first `heldout` of the others that share no group with
        them. If these are too few, both are the first ones of their part of the groups; the parts
        are full if groups can be divided so.
    """
    calibration = take_unseen(rows, (), samples, tick)
    rest = take_unseen(rows, links_of(rows, calibration), heldout, tick)
    possible = min(heldout, len(rows.digests) - len(calibration))
    if len(rest) < possible:  # hence all rows were read
        return _divided(rows, len(calibration), possible, heldout) or Split(calibration, rest)
    return Split(calibration, rest)


def take_unseen(
    rows: Rows, seen: Iterable[str], count: int, tick: Tick | None = None
) -> tuple[str, ...]:
    """Return the first `count` samples that share nothing with what was seen, by their digests.

    They share nothing by way of other rows either, as far as these are read: until `count` samples
    are found.

    Args:
        rows: The rows.
        seen: Links of what was seen.
        count: Number of samples.
        tick: Called with the number of samples found and `count`.
    """
    unseen = Unseen(seen)
    found: dict[str, Sequence[str]] = {}
    if not count:
        return ()
    for row in rows:
        unseen.add(row.links)
        if row.digest in found or not unseen.holds(row.links):
            continue
        found[row.digest] = row.links
        if len(found) == count:  # a later row may have joined an earlier one with what was seen
            found = {digest: links for digest, links in found.items() if unseen.holds(links)}
        if tick:
            tick(len(found), count)
        if len(found) == count:
            break
    return tuple(digest for digest, links in found.items() if unseen.holds(links))


def links_of(rows: Rows, digests: Iterable[str]) -> list[str]:
    """Return the links of samples, of all their rows read so far."""
    wanted = set(digests)
    return [link for row in rows.read if row.digest in wanted for link in row.links]


def groups_of(rows: Rows) -> dict[str, str]:
    """Return the group of each sample, of all rows read so far, by the sample's digest."""
    groups = Groups()
    for row in rows.read:
        groups.join(row.links)
    return {row.digest: groups.of(row.links[0]) for row in rows.read}


def _divided(rows: Rows, samples: int, possible: int, heldout: int) -> Split | None:
    """Divide the groups between the parts and return the first samples of each.

    None if all samples are one group.
    """
    group_of = groups_of(rows)
    members: dict[str, list[str]] = {}
    for digest in rows.digests:
        members.setdefault(group_of[digest], []).append(digest)
    if len(members) == 1:
        return None
    chosen = balanced(list(map(len, members.values())), samples, possible)
    first = {name for position, name in enumerate(members) if position in chosen}
    calibration = [digest for digest in rows.digests if group_of[digest] in first]
    others = [digest for digest in rows.digests if group_of[digest] not in first]
    return Split(tuple(calibration[:samples]), tuple(others[:heldout]))


def balanced(sizes: Sequence[int], samples: int, heldout: int) -> set[int]:
    """Choose groups for the calibration samples such that both parts are filled as far as possible.

    The smaller of both parts' fillings, relative to the number wanted, is the largest that any
    choice has.

    Args:
        sizes: Number of samples of each group, of at least two groups.
        samples: Number of calibration samples wanted, at least 1.
        heldout: Number of held-out samples wanted, at least 1.

    Returns:
        Positions of the chosen groups, early ones where there is a choice.
    """
    total = sum(sizes)
    # Subset sums: the first group with which each sum is reached.
    reached = np.full(total + 1, len(sizes))
    reached[0] = -1
    for position, size in enumerate(sizes):
        new = (reached[:-size] < position) & (reached[size:] == len(sizes))
        reached[size:][new] = position
    sums = np.flatnonzero(reached < len(sizes)).tolist()
    best = max(sums, key=lambda size: min(size * heldout, (total - size) * samples))
    chosen = set()
    while best:
        position = int(reached[best])
        chosen.add(position)
        best -= sizes[position]
    return chosen
