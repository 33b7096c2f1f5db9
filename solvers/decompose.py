"""Exact costs as linear forms over parameter values, found from the listed points alone.

On one slice of a space every cost is written as base + one effect per parameter value + the effects
of a few pairs. A point that does not fit (the original model runs dead operations that its equals
skip) becomes a slice itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opsearch.problem import Choice, Pair

Ints = NDArray[np.int64]
Index = tuple[Any, ...]

# Cells of a dense table; with three free parameters or more a larger one has no form.
_LARGEST_BOX = 2**22
# A slice with more points that do not fit has no form at all.
_EXCEPTIONS = 4


@dataclass(frozen=True)
class Bundle:
    """Pairs of one choice with choices of another parameter, and that parameter's others."""

    pairs: tuple[Pair, ...]
    others: tuple[Choice, ...]


@dataclass(frozen=True)
class Slice:
    """Points on which each of C costs is base + main effects + pair effects, to the integer.

    options: per parameter the value indices that occur, one for a fixed parameter; base: int64[C];
    mains: int64[C, n] per parameter, in the order of options; pairs: int64[C] per pair of choices;
    excluded: sets of choices that no point has; needs: a choice that no point has without one of
    the others. All other combinations of options are points.
    """

    options: tuple[Ints, ...]
    base: Ints
    mains: tuple[Ints, ...]
    pairs: dict[Pair, Ints]
    excluded: tuple[tuple[Choice, ...], ...]
    needs: tuple[tuple[Choice, tuple[Choice, ...]], ...] = ()

    @property
    def has_choices(self) -> bool:
        """Whether it may have more than one point."""
        return any(len(options) > 1 for options in self.options)

    def holds(self, row: Sequence[int]) -> bool:
        """Whether the slice has the options of a row, and does not exclude it."""
        return all(i in options for i, options in zip(row, self.options, strict=True)) and not any(
            all(row[k] == i for k, i in absent) for absent in self.excluded
        )

    def bundles(self) -> Iterator[tuple[Choice, Bundle]]:
        """The pairs that a choice has with one other parameter, where these are several.

        Exactly one of the choices of that parameter holds, so that at most one of the pairs does,
        and one where the choice itself holds and none of the others: this tells programs more than
        the pairs alone.
        """
        found: dict[tuple[Choice, int], list[Pair]] = {}
        for pair in self.pairs:
            for choice, (other, _) in (pair, pair[::-1]):
                found.setdefault((choice, other), []).append(pair)
        for (choice, other), pairs in found.items():
            if len(pairs) > 1:
                present = {pair[0] if pair[1] == choice else pair[1] for pair in pairs}
                every = ((other, int(i)) for i in self.options[other])
                yield choice, Bundle(tuple(pairs), tuple(c for c in every if c not in present))


def decompose(points: Ints, costs: Ints) -> list[Slice]:
    """The form of the costs on these points, and those that do not fit as slices of their own.

    Empty where two-way effects do not explain the costs, or pairs not which points are listed.
    """
    columns = [np.unique(column, return_inverse=True) for column in points.T]
    options = tuple(values for values, _ in columns)
    codes = tuple(code for _, code in columns)
    shape = tuple(len(values) for values in options)
    free = tuple(k for k, size in enumerate(shape) if size > 1)
    if len(free) > 2 and np.prod(shape, dtype=float) > _LARGEST_BOX:
        return []
    listed = np.zeros(shape, bool)
    listed[codes] = True
    excluded = _excluded(listed, options, free)
    if excluded is None:
        return []
    table = np.zeros((len(costs), *shape), np.int64)
    for c, cost in enumerate(costs):
        table[c][codes] = cost
    fits = [_fit(table, listed, anchor, free) for anchor in _anchors(listed, codes)]
    best = min(fits, key=_Fit.misfit)
    misfits = np.flatnonzero(np.asarray(best.rest.any(axis=0))[codes])
    if len(misfits) > _EXCEPTIONS:
        return []
    others = [single(points[p], costs[:, p]) for p in misfits]
    excluded += [tuple(enumerate(points[p].tolist())) for p in misfits]
    pairs = dict(_pairs(best.effects, options))
    return [Slice(options, best.base, best.mains, pairs, tuple(excluded)), *others]


@dataclass(frozen=True)
class _Fit:
    """Effects seen from one anchor, and what they leave over (zero at points not listed)."""

    base: Ints
    mains: tuple[Ints, ...]
    effects: dict[tuple[int, int], Ints]
    rest: Ints

    def misfit(self) -> tuple[int, int]:
        """Number of points that do not fit, then number of pairs."""
        pairs = sum(int(effect.any(axis=0).sum()) for effect in self.effects.values())
        return int(self.rest.any(axis=0).sum()), pairs


def _fit(
    table: Ints, listed: NDArray[np.bool_], anchor: tuple[int, ...], free: tuple[int, ...]
) -> _Fit:
    """Base, main and pair effects seen from a listed anchor.

    Effects are read on the lines and planes through the anchor. A value whose point on the line is
    not listed gets the effect that explains most of its points.
    """
    base = table[_all(anchor)]
    rest = table - base.reshape(-1, *[1] * listed.ndim)
    lines = [_through(anchor, (k,)) for k in range(listed.ndim)]
    mains = tuple(np.where(listed[line], rest[_all(line)], 0) for line in lines)
    for k in free:
        rest -= _spread(mains[k], (k,), listed.ndim)
    for k in free:
        for i in np.flatnonzero(~listed[lines[k]]):
            slab: Index = (*[slice(None)] * k, i)
            mains[k][:, i] = _most_common(rest[_all(slab)][:, listed[slab]])
            rest[_all(slab)] -= mains[k][:, i].reshape(-1, *[1] * (listed.ndim - 1))
    effects = {}
    for pair in combinations(free, 2):
        plane = _through(anchor, pair)
        effects[pair] = np.where(listed[plane], rest[_all(plane)], 0)
    for pair, effect in effects.items():
        rest -= _spread(effect, pair, listed.ndim)
    rest[:, ~listed] = 0
    if rest.any():
        for pair, effect in effects.items():
            _drop_outvoted(effect, pair, listed, rest)
        rest[:, ~listed] = 0
    return _Fit(base, mains, effects, rest)


def _drop_outvoted(
    effect: Ints, pair: tuple[int, int], listed: NDArray[np.bool_], rest: Ints
) -> None:
    """Take back pair effects without which more points fit: one odd point on a plane made them."""
    spread = _spread(effect, pair, listed.ndim)
    others = tuple(axis for axis in range(listed.ndim) if axis not in pair)
    fitting = ((rest == 0).all(axis=0) & listed).sum(axis=others)
    fitting_without = ((rest == -spread).all(axis=0) & listed).sum(axis=others)
    wrong = effect * (fitting_without > fitting)
    effect -= wrong
    rest += _spread(wrong, pair, listed.ndim)


def _anchors(listed: NDArray[np.bool_], codes: tuple[Ints, ...]) -> Iterator[tuple[int, ...]]:
    """The listed corners of the box, or the first point where no corner is listed."""
    corners = product(*(sorted({0, size - 1}) for size in listed.shape))
    found = [corner for corner in corners if listed[corner]]
    yield from found or [tuple(int(code[0]) for code in codes)]


def _excluded(
    listed: NDArray[np.bool_], options: tuple[Ints, ...], free: tuple[int, ...]
) -> list[tuple[Choice, ...]] | None:
    """Pairs of choices that no point has, None where pairs do not tell which points are listed."""
    allowed = np.ones_like(listed)
    excluded: list[tuple[Choice, ...]] = []
    for k, m in combinations(free, 2):
        others = tuple(axis for axis in range(listed.ndim) if axis not in (k, m))
        together = listed.any(axis=others, keepdims=True)
        allowed &= together
        apart = np.argwhere(~together.reshape(listed.shape[k], listed.shape[m]))
        excluded += [((k, int(options[k][i])), (m, int(options[m][j]))) for i, j in apart]
    return excluded if (allowed == listed).all() else None


def _pairs(
    effects: dict[tuple[int, int], Ints], options: tuple[Ints, ...]
) -> Iterator[tuple[Pair, Ints]]:
    for (k, m), effect in effects.items():
        for i, j in np.argwhere(effect.any(axis=0)):
            yield ((k, int(options[k][i])), (m, int(options[m][j]))), effect[:, i, j]


def single(point: Ints, cost: Ints) -> Slice:
    """A slice of one point."""
    nothing = np.zeros((len(cost), 1), np.int64)
    return Slice(tuple(point[:, None]), cost, (nothing,) * len(point), {}, ())


def _through(anchor: tuple[int, ...], axes: tuple[int, ...]) -> Index:
    """The index of the line or plane through the anchor along some axes."""
    return tuple(slice(None) if k in axes else code for k, code in enumerate(anchor))


def _all(index: Index) -> Index:
    """The index into all costs at once."""
    return (slice(None), *index)


def _spread(effect: Ints, axes: tuple[int, ...], ndim: int) -> Ints:
    """An effect [C, ...] along some axes, shaped so that it broadcasts over the whole table."""
    sizes = dict(zip(axes, effect.shape[1:], strict=True))
    return effect.reshape(len(effect), *(sizes.get(k, 1) for k in range(ndim)))


def _most_common(columns: Ints) -> Ints:
    values, counts = np.unique(columns, axis=1, return_counts=True)
    return values[:, counts.argmax()]
