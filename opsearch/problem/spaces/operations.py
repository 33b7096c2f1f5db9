"""Spaces with one parameter per operation: `layers`, `operations` and `shares`.

`layers` keeps or prunes q, kv and mlp of each layer; it contains operator-level skipping (arXiv
2606.31903) and ShortV (ICCV 2025). In `operations`, each of them runs on no token or on one of
several nested groups of tokens: by default the key quarter and all (GSOP, arXiv 2507.02909 v1). In
`shares`, each of them has its own share of the tokens, in 32nds. All are too large to list.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import pairwise
from typing import ClassVar, NoReturn

import numpy as np
from numpy.typing import NDArray

from opsearch.costs.base import Cost
from opsearch.errors import OpsearchError, shortened
from opsearch.formatting import screen_repr
from opsearch.policy.counts import KV, MLP, MODULES, Counts, Q, live, resolve_fraction
from opsearch.policy.policy import Policy
from opsearch.policy.ranker import RankerSpec
from opsearch.problem.spaces.base import (
    N_V_16,
    Operation,
    Parameter,
    PointCosts,
    Space,
    SpaceSettings,
    UnlistedSpace,
)
from opsearch.problem.spaces.operation_costs import CountedCosts, operation_costs

BITS = (Fraction(0), Fraction(1))
GROUPS = (Fraction(1, 4), Fraction(1))
"""Shares of the tokens in GSOP's groups: the key group (144 of 576), all."""
SHARES = tuple(Fraction(k, 32) for k in range(1, 33))
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"  # a level is one digit of a policy's name
MOST_GROUPS = len(_DIGITS) - 1


@dataclass(frozen=True)
class OperationSpace(UnlistedSpace):
    """A level for each operation, and one share of tokens, n_v, that multiplies all levels.

    Queries and MLP of the last layer are not parameters, because no layer reads their result. A
    point's number is the index of its row among all rows in lexicographic order, a Python integer
    of any size.

    Attributes:
        name: Name of the space.
        num_layers: Number of decoder layers.
        levels: Ascending shares from 0 to 1.
        shares: Values of n_v.
        ranker: Ranker before the decoder.
        kept: Operations that always have the highest level. If no other kv reads their result, the
            last layer's does.
        tied: True if queries have the level of the keys and values, except in the last layer with
            keys and values.
    """

    name: str
    num_layers: int
    levels: tuple[Fraction, ...]
    shares: tuple[Fraction, ...]
    ranker: RankerSpec | None
    kept: frozenset[Operation] = frozenset()
    tied: bool = False
    parameters_act_alone: ClassVar[bool] = True

    __repr__ = screen_repr

    @property
    def most_counts(self) -> int:
        """Largest number of different partial counts: one per level above zero, without all."""
        return len(self.levels) - 1 - (self.shares == (Fraction(1),))

    @property
    def per_operation(self) -> OperationSpace:
        """The space itself, because it has one parameter per operation."""
        return self

    @property
    def gradual(self) -> bool:
        """True if neighbouring levels are so close that all shares can be moved by gradients."""
        return self.levels[1:] == SHARES and self.shares == (Fraction(1),)

    @cached_property
    def operations(self) -> tuple[Operation, ...]:
        """(layer, module) of each parameter except n_v, the last one; kv if queries are tied."""
        modules = (KV, MLP) if self.tied else range(len(MODULES))
        every = ((layer, m) for layer in range(self.num_layers) for m in modules)
        return tuple((layer, m) for layer, m in every if m == KV or layer < self.num_layers - 1)

    @cached_property
    def parameters(self) -> tuple[Parameter, ...]:
        """q0, kv0, mlp0, q1, ... (if tied: attn0, mlp0, attn1, ...), and n_v."""
        names = {Q: "q", KV: "attn" if self.tied else "kv", MLP: "mlp"}
        return (
            *(
                Parameter(f"{names[module]}{layer}", self.levels[self.lowest(layer, module) :])
                for layer, module in self.operations
            ),
            Parameter("n_v", self.shares),
        )

    def lowest(self, layer: int, module: int) -> int:
        """Return the index in `levels` of an operation's first value."""
        return len(self.levels) - 1 if (layer, module) in self.kept else 0

    def decode(self, point: Sequence[int]) -> Policy:
        """Return the policy of a row of value indices."""
        levels = self.live_levels(point)
        n_v = self.shares[point[-1]]
        layers = [[self.levels[level] * n_v for level in triple] for triple in levels.tolist()]
        counts = tuple((q, kv, mlp) for q, kv, mlp in layers)
        digits = (
            f"{module}={''.join(_DIGITS[level] for level in column)}"
            for module, column in zip(MODULES, levels.T.tolist(), strict=True)
        )
        name = f"{self.name}({', '.join(digits)}, n_v={n_v}{self._named_groups})"
        rankers = () if self.ranker is None else ((0, self.ranker),)
        return Policy(counts, rankers=rankers, name=name)

    @cached_property
    def _named_groups(self) -> str:
        """The groups that the digits of a policy's name stand for; empty where they are usual."""
        if self.levels in (BITS, (Fraction(0), *GROUPS), (Fraction(0), *SHARES)):
            return ""
        return f", groups={','.join(map(str, self.levels[1:]))}"

    def index_of(self, point: Sequence[int]) -> int:
        """Return the number of the point whose policy equals that of a row of value indices."""
        levels = self.live_levels(point)
        index = 0
        for k, parameter in enumerate(self.parameters):
            value_index = int(point[k])
            if k < len(self.operations):
                value_index = int(levels[self.operations[k]]) - self.lowest(*self.operations[k])
            index = index * len(parameter.values) + value_index
        return index

    def row(self, index: int) -> tuple[int, ...]:
        """Return the row of value indices of a point."""
        found = []
        for parameter in reversed(self.parameters):
            index, value_index = divmod(index, len(parameter.values))
            found.append(value_index)
        return tuple(reversed(found))

    def resolved(self, points: NDArray[np.int64], n_visual: int) -> Counts:
        """Return the live counts of rows on a sample of `n_visual` tokens, int64[P, L, 3]."""
        tokens = np.array(
            [[resolve_fraction(x * n_v, n_visual) for x in self.levels] for n_v in self.shares]
        )
        levels = np.stack([self.live_levels(point) for point in points.tolist()])
        return np.asarray(tokens[points[:, -1, None, None], levels], np.int64)

    def rerankings(self, points: NDArray[np.int64], n_visual: int) -> None:
        """Return None: no policy of the space ranks inside the decoder."""

    def live_levels(self, point: Sequence[int]) -> Counts:
        """Return the indices in `levels` without dead operations, int64[L, 3]."""
        levels = np.zeros((self.num_layers, len(MODULES)), np.int64)
        for (layer, module), value_index in zip(self.operations, point[:-1], strict=True):
            levels[layer, module] = value_index + self.lowest(layer, module)
        if self.tied:
            levels[:, Q] = levels[:, KV]
        unread = [layer for layer, module in self.kept if module != KV]
        if any(levels[layer + 1 :, KV].max() < len(self.levels) - 1 for layer in unread):
            levels[-1, KV] = len(self.levels) - 1
        return live(levels)

    def costs(self, cost: Cost, samples: Sequence[tuple[int, int]]) -> PointCosts:
        """Return the cost of every point summed over the samples, as tables of few levels."""
        if self.gradual:
            return CountedCosts(self, cost, Counter(samples))
        return operation_costs(cost, self, samples)

    def raise_unlistable(self) -> NoReturn:
        """Raise OpsearchError: the space is too large to list."""
        solvers = "ortools or scipy, or for --objective joint with local, greedy or optuna"
        raise OpsearchError(
            f"space {self.name!r} has {len(self.levels)}^{len(self.operations)} x "
            f"{len(self.shares)} points, too many to list; search it with --solver "
            f"{'gradient' if self.gradual else solvers}; use another space where a list is required"
        )


class Layers:
    """Each of q, kv and mlp of every layer on n_v of the tokens or on none."""

    options: ClassVar[frozenset[str]] = frozenset({"keep", "tie"})
    ranks_inside: ClassVar[bool] = False

    @staticmethod
    def from_settings(settings: SpaceSettings) -> OperationSpace:
        """Return the space of these settings."""
        given = settings.num_layers, settings.n_v, settings.ranker
        return layers_space(*given, settings.keep or (), settings.tie)


class Operations:
    """Each of q, kv and mlp of every layer on no token or a group: GSOP's key quarter, or all."""

    options: ClassVar[frozenset[str]] = frozenset({"keep", "groups"})
    ranks_inside: ClassVar[bool] = False

    @staticmethod
    def from_settings(settings: SpaceSettings) -> OperationSpace:
        """Return the space of these settings."""
        given = settings.num_layers, settings.n_v, settings.ranker
        return operations_space(*given, settings.keep or (), settings.groups or GROUPS)


class Shares:
    """Each of q, kv and mlp of every layer on its own share of the tokens, in 32nds."""

    options: ClassVar[frozenset[str]] = frozenset({"keep"})
    ranks_inside: ClassVar[bool] = False

    @staticmethod
    def from_settings(settings: SpaceSettings) -> OperationSpace:
        """Return the space of these settings."""
        return shares_space(settings.num_layers, settings.ranker, settings.keep or ())


def layers_space(
    layers: int,
    n_v: Sequence[Fraction] = N_V_16,
    ranker: RankerSpec | None = None,
    kept: Collection[Operation] = (),
    tied: bool = False,
) -> OperationSpace:
    """Return the space with a bit for each of q, kv and mlp of each layer, and n_v.

    If tied, q and kv of a layer share one bit.
    """
    shares = tuple(sorted({*n_v, Fraction(1)}))
    if tied:
        attention = {layer for layer, module in kept if module != MLP}
        kept = {*kept, *((layer, module) for layer in attention for module in (Q, KV))}
    return OperationSpace(
        name="layers",
        num_layers=layers,
        levels=BITS,
        shares=shares,
        ranker=ranker,
        kept=searchable(layers, kept),
        tied=tied,
    )


def operations_space(
    layers: int,
    n_v: Sequence[Fraction] = N_V_16,
    ranker: RankerSpec | None = None,
    kept: Collection[Operation] = (),
    groups: Sequence[Fraction] = GROUPS,
) -> OperationSpace:
    """Return GSOP's space: q, kv and mlp of each layer on no token or on a group of tokens.

    The groups are fixed shares of the tokens, so n_v is 1. Counts are prefixes of the ranking, so
    a group is pruned only together with the less important tokens.

    Raises:
        ValueError: `check_groups` refuses the groups.
    """
    check_groups(groups)
    return OperationSpace(
        name="operations",
        num_layers=layers,
        levels=(Fraction(0), *groups),
        shares=(Fraction(1),),
        ranker=ranker,
        kept=searchable(layers, kept),
    )


def shares_space(
    layers: int, ranker: RankerSpec | None = None, kept: Collection[Operation] = ()
) -> OperationSpace:
    """Return the space with a share of the tokens for each of q, kv and mlp of each layer."""
    return OperationSpace(
        name="shares",
        num_layers=layers,
        levels=(Fraction(0), *SHARES),
        shares=(Fraction(1),),
        ranker=ranker,
        kept=searchable(layers, kept),
    )


def is_gradual(space: Space) -> bool:
    """Return whether a space is one of shares, which gradients can search."""
    return isinstance(space, OperationSpace) and space.gradual


def check_groups(groups: Sequence[Fraction]) -> None:
    """Raise ValueError, with the reason, unless groups are nested and end with all tokens.

    Args:
        groups: Share of the visual tokens in each group.
    """
    for smaller, larger in pairwise((Fraction(0), *groups)):
        if larger <= smaller:
            raise ValueError(
                f"groups are nested, so that each share is larger than the one before it, but "
                f"{shortened(larger)} follows {shortened(smaller)}"
            )
    if not groups or groups[-1] != 1:
        raise ValueError("the last group is all tokens; end with 1, e.g. 1/4,1")
    if len(groups) == 1:
        raise ValueError(
            "all tokens or none are the choices of --space layers with --n-v 1; give a smaller "
            "group too, e.g. 1/4,1"
        )
    if len(groups) > MOST_GROUPS:
        raise ValueError(
            f"{len(groups)} groups are more than the {MOST_GROUPS} that a policy's name has digits "
            "for"
        )


def searchable(layers: int, kept: Collection[Operation]) -> frozenset[Operation]:
    """Return the kept operations that are parameters."""
    return frozenset((at, module) for at, module in kept if module == KV or at < layers - 1)
