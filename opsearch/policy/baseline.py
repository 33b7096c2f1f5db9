"""Baselines as families of policies: at a budget, each setting of the free knobs is a candidate.

The cost of a baseline rises with one ratio. For each setting of its other parameters, its knobs,
the candidate is the policy with the largest ratio within the budget.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from types import MappingProxyType

from opsearch import registry
from opsearch.formatting import screen_repr
from opsearch.policy import builders
from opsearch.policy.policy import Policy
from opsearch.policy.ranker import RankerSpec

Fits = Callable[[Policy], bool]
Missed = Callable[[str, Policy], None]
PolicyMaker = Callable[[int, Fraction, RankerSpec], Policy]
"""Function from (layers, ratio, ranker) to a policy."""
Knobs = Callable[[int], Mapping[str, PolicyMaker]]
"""Function from a number of layers to makers by setting, e.g. "k=3"."""
_STEPS = 1000
EVALUATIONS, SETTING = "evaluations", "setting"
"""Keys in the provenance of a chosen policy."""


def with_evaluations(policy: Policy, evaluations: int) -> Policy:
    """Return the policy with the number of policies that were measured to choose it."""
    return replace(policy, provenance={**policy.provenance, EVALUATIONS: evaluations})


def no_knobs(layers: int) -> Mapping[str, PolicyMaker]:
    """Return no makers: the ratio is the only parameter."""
    return {}


@dataclass(frozen=True)
class Baseline:
    """A method as policies whose cost rises with a ratio.

    Attributes:
        description: One sentence with the published setting.
        makers: Makers with the published knobs; the first one that can meet the budget is used.
            Empty if the policies are made from measurements.
        ranker: Name of the method's ranker; None: that of the run.
        least: Lowest ratio, in thousandths.
        granularity: Reason why a part of a budget may stay unused.
        published: Call or command with the published setting; empty if there is none.
        knobs: Makers by setting of the knobs, for a number of layers.
        nested: True if policies keep several counts of one order, so that the ranker before the
            decoder must be nested.
        in_run: True if `run` compares it too.
    """

    description: str
    makers: tuple[PolicyMaker, ...]
    ranker: str | None = None
    least: int = 1
    granularity: str = "no other ratio comes closer to the budget"
    published: str = ""
    knobs: Knobs = no_knobs
    nested: bool = False
    in_run: bool = True

    __repr__ = screen_repr


def reduction(ranker: str | None, description: str, published: str = "") -> Baseline:
    """Return the baseline that keeps the same tokens of a ranking in all layers."""
    return Baseline(description, (builders.tokens,), ranker, published=published)


def candidates(
    layers: int,
    ranker: RankerSpec,
    fits: Fits,
    usable: Collection[str] = ("random", "uniform"),
    *,
    nested: bool = True,
    further: Sequence[RankerSpec] = (),
    measured: Mapping[str, PolicyMaker] = MappingProxyType({}),
    in_run: bool = False,
    missed: Missed = lambda label, cheapest: None,
) -> dict[str, list[Policy]]:
    """Return the candidates of every baseline at a budget, by label.

    Each setting of a baseline's knobs gives one candidate, the policy of the largest ratio that
    fits; equal policies are listed once. The published setting, if it fits, comes first. The
    provenance of a candidate names its `baseline` and its `setting`, which is empty for baselines
    without knobs.

    Args:
        layers: Number of layers.
        ranker: Ranker of the run before the decoder, which is also a baseline.
        fits: Return whether a policy is within the budget.
        usable: Names of the rankers that the model supports.
        nested: Whether `ranker` is nested; otherwise baselines that need it are left out.
        further: Rankers that are baselines too.
        measured: Makers of baselines that depend on measurements, by label; without theirs they are
            left out.
        in_run: True for the few baselines that `run` compares.
        missed: Called with the label and a cheap policy of every baseline without one that fits:
            the cheapest with the published knobs, or with the first setting if there are none.
    """
    requested = {f"tokens {spec}": spec for spec in (ranker, *further)}
    found = {}
    for label, method in _methods(tuple(requested), usable, measured, nested, in_run).items():
        spec = RankerSpec(method.ranker) if method.ranker else requested.get(label, ranker)
        policies = list(_policies(label, method, layers, spec, fits))
        if policies:
            found[label] = policies
        elif makers := method.makers[-1:] or tuple(method.knobs(layers).values())[:1]:
            missed(label, makers[0](layers, Fraction(method.least, _STEPS), spec))
    return found


def _methods(
    requested: Sequence[str],
    usable: Collection[str],
    measured: Mapping[str, PolicyMaker],
    nested: bool,
    in_run: bool,
) -> dict[str, Baseline]:
    """Return the baselines to make candidates of, those of requested rankers first."""
    registered: dict[str, Baseline] = registry.registered("baselines")
    by_name = reduction(None, "Requested by name.")
    found = {label: registered.get(label, by_name) for label in requested}
    for label, method in registered.items():
        if method.ranker not in (None, *usable) or (in_run and not method.in_run):
            continue
        if nested or not method.nested:
            found.setdefault(label, method)
    return found | {
        label: replace(registered[label], makers=(maker,)) for label, maker in measured.items()
    }


def _policies(
    label: str, method: Baseline, layers: int, ranker: RankerSpec, fits: Fits
) -> Iterator[Policy]:
    """Yield the distinct candidates of a baseline, the published one first."""
    dearest = (largest_ratio(make, layers, ranker, method.least, fits) for make in method.makers)
    published = next((policy for policy in dearest if policy is not None), None)
    settings: dict[Policy, str] = {}
    knobs = method.knobs(layers)
    for setting, make in knobs.items():
        policy = largest_ratio(make, layers, ranker, method.least, fits)
        if policy is not None:
            settings.setdefault(policy, setting)
    if published is not None:
        setting = settings.pop(published, "as published" if knobs else "")
        settings = {published: setting, **settings}
    for policy, setting in settings.items():
        yield replace(policy, provenance={"baseline": label, "setting": setting})


def largest_ratio(
    make: PolicyMaker, layers: int, ranker: RankerSpec, least: int, fits: Fits
) -> Policy | None:
    """Return the policy of the largest ratio that fits, in thousandths; None if none does."""
    low, high = least - 1, _STEPS
    while low < high:
        middle = (low + high + 1) // 2
        fit = fits(make(layers, Fraction(middle, _STEPS), ranker))
        low, high = (middle, high) if fit else (low, middle - 1)
    return make(layers, Fraction(low, _STEPS), ranker) if low >= least else None
