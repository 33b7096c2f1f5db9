"""Baselines at equal cost: bisect each method's ratio to the largest one within budget."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from opsearch import registry
from opsearch.policy import builders
from opsearch.policy.policy import Policy
from opsearch.policy.ranker import RankerSpec

Fits = Callable[[Policy], bool]
Missed = Callable[[str, Policy], None]
PolicyMaker = Callable[[int, Fraction, RankerSpec], Policy]
GSOP_POLICIES = 300  # maximum number of policies that its search measures
_STEPS = 1000


@dataclass(frozen=True)
class Baseline:
    """A method as policies whose cost rises with a ratio.

    Attributes:
        description: One sentence with the published setting.
        makers: Functions from (layers, ratio, ranker) to a policy; the first one that can meet the
            budget is used. Empty if the policies are made from measurements.
        ranker: Name of the method's ranker; None: that of the run.
        least: Lowest ratio, in thousandths.
        granularity: Reason why a part of a budget may stay unused.
        published: Call or command with the published setting; empty if there is none.
    """

    description: str
    makers: tuple[PolicyMaker, ...]
    ranker: str | None = None
    least: int = 1
    granularity: str = "no other ratio comes closer to the budget"
    published: str = ""


_TOKENS = 'builders.tokens(32, "{share}", RankerSpec("{ranker}"))'
_RUN = "opsearch run --space {search} --model llava-hf/{model} --data calib.jsonl"
_SHORTV = "31, 29, 30, 28, 0, 26, 27, 25, 24, 22, 23, 21, 2, 3, 20, 18, 17, 12, 19"
_WHOLE_LAYERS = "it prunes whole layers"


def _reduction(ranker: str | None, description: str, published: str = "") -> Baseline:
    return Baseline(description, (builders.tokens,), ranker, published=published)


def _vtw(layers: int, share: Fraction, ranker: RankerSpec) -> Policy:
    return builders.vtw(layers, int(share * layers))


def _fastv_like(k: int) -> PolicyMaker:
    """Keep all tokens in the first k layers and a share after them."""

    def make(layers: int, share: Fraction, ranker: RankerSpec) -> Policy:
        return builders.stages(layers, {0: 1, min(k, layers - 1): share}, ranker)

    return make


def _shortv(order: Sequence[int]) -> PolicyMaker:
    """Freeze all but a share of the layers, in the given order."""

    def make(layers: int, share: Fraction, ranker: RankerSpec) -> Policy:
        return builders.shortv(layers, order[: layers - int(share * layers)])

    return make


def _fastv(k: int) -> PolicyMaker:
    return lambda layers, share, ranker: builders.fastv(layers, min(k, layers - 1), share)


def _pyramiddrop(first: int | None) -> PolicyMaker:
    return lambda layers, share, ranker: builders.pyramiddrop(layers, share, first)


def _sparsevlm(layers: int, share: Fraction, ranker: RankerSpec) -> Policy:
    return builders.sparsevlm(layers, share=share)


# "FastV like" uses the run's ranking from before the decoder, not FastV's attention.
BASELINES: dict[str, Baseline] = {
    "tokens uniform": _reduction("uniform", "Evenly spaced tokens."),
    "tokens random": _reduction("random", "Random tokens."),
    "tokens cls": _reduction("cls", "Tokens that [CLS] attends to most."),
    "tokens vispruner": _reduction(
        "vispruner",
        "VisPruner; published: 128, 64, 32 of 576 tokens.",
        _TOKENS.format(share="128/576", ranker="vispruner"),
    ),
    "tokens divprune": _reduction(
        "divprune",
        "DivPrune; published: 0.098 of the tokens.",
        _TOKENS.format(share="0.098", ranker="divprune"),
    ),
    "tokens visionzip": _reduction(
        "visionzip",
        "VisionZip's dominant tokens; published: 54 of 576 plus 10 merged ones, here 64 dominant.",
        _TOKENS.format(share="64/576", ranker="visionzip"),
    ),
    "tokens cdpruner": _reduction(
        "cdpruner",
        "CDPruner; published: 128, 64, 32 of 576 tokens.",
        'builders.tokens(32, "128/576", RankerSpec("cdpruner", (("clip", "FOLDER"),)))',
    ),
    "VTW": Baseline(
        "No visual tokens from a layer on; published: from layer 15 of 32.",
        (_vtw,),
        least=0,
        granularity=_WHOLE_LAYERS,
        published="builders.vtw(32, 15)",
    ),
    "ShortV": Baseline(
        "Visual tokens are not updated in the layers whose freezing alone gives the lowest KL on "
        "the calibration samples; published: 19 of 32 layers, 20 samples.",
        (),
        least=0,
        granularity=_WHOLE_LAYERS,
        published=f"builders.shortv(32, [{_SHORTV}])",
    ),
    "FastV like": Baseline(
        "Fewer tokens by the run's ranking from layer 2 on, or 1 if the budget requires it; "
        "published: half of the tokens from layer 2.",
        (_fastv_like(2), _fastv_like(1)),
    ),
    "FastV": Baseline(
        "Fewer tokens by attention in the decoder from layer 2 on, or 1 if the budget requires "
        "it; published: half of the tokens from layer 2.",
        (_fastv(2), _fastv(1)),
        "fastv",
        published="builders.fastv(32)",
    ),
    "PyramidDrop": Baseline(
        "Decreasing shares of tokens from a quarter of the layers on, or layer 2 or 1 if the "
        "budget requires it; published: halving at each stage.",
        (_pyramiddrop(None), _pyramiddrop(2), _pyramiddrop(1)),
        "pyramiddrop",
        least=100,
        published="builders.pyramiddrop()",
    ),
    "FitPrune": Baseline(
        "Fewest tokens per layer within a bound on lost attention, by its own search on the "
        "calibration samples; published: 60% of the MACs saved.",
        (),
        "fitprune",
        published="builders.fitprune(builders.FITPRUNE_60)",
    ),
    "SparseVLM": Baseline(
        "Fewer tokens in three steps by the attention of text tokens; published: 300, 200 and 118 "
        "of 576 tokens.",
        (_sparsevlm,),
        "sparsevlm",
        granularity="its first step already keeps all tokens",
        published="builders.sparsevlm()",
    ),
    "GSOP": Baseline(
        "Operations (q, kv, mlp) of two groups of tokens, ranked by [CLS], pruned greedily in "
        f"order of their KL; measures at most {GSOP_POLICIES} policies (--evaluations); published: "
        "groups of 144 and 432 tokens, ordered by accuracy, 30% of the FLOPs.",
        (),
        granularity="it prunes whole operations",
        published=_RUN.format(
            search="operations --solver greedy --budget 30%", model="llava-1.5-7b-hf"
        ),
    ),
}
DOP_AS_PUBLISHED = _RUN.format(
    search="dop --objective additive --budget 14%", model="llava-v1.6-vicuna-7b-hf"
)


def baselines(
    layers: int,
    ranker: RankerSpec,
    fits: Fits,
    usable: Collection[str] = ("random", "uniform"),
    frozen_first: Sequence[int] = (),
    missed: Missed = lambda label, cheapest: None,
    further: Sequence[RankerSpec] = (),
) -> dict[str, Policy]:
    """Return the policies of all baselines that can meet the budget, by label.

    Args:
        layers: Number of layers.
        ranker: Ranker of the run, which is also compared as a method.
        fits: Return whether a policy is within the budget.
        usable: Names of the rankers that the model supports.
        frozen_first: Layers in ShortV's order; without them ShortV is excluded.
        missed: Called with the label and the cheapest policy of every excluded method.
        further: Rankers that are also compared as methods.
    """
    requested = {f"tokens {spec}": spec for spec in (ranker, *further)}
    methods = {label: _reduction(None, "Requested by name.") for label in requested}
    for label, method in registry.registered("baselines").items():
        if label not in methods and method.ranker in (None, *usable):
            methods[label] = method
    if frozen_first:
        methods["ShortV"] = replace(methods["ShortV"], makers=(_shortv(frozen_first),))
    found = {}
    for label, method in methods.items():
        spec = RankerSpec(method.ranker) if method.ranker else requested.get(label, ranker)
        policies = (_dearest(make, layers, spec, method.least, fits) for make in method.makers)
        policy = next((policy for policy in policies if policy is not None), None)
        if policy is not None:
            found[label] = policy
        elif method.makers:
            share = Fraction(method.least, _STEPS)
            missed(label, method.makers[-1](layers, share, spec))
    return found


def _dearest(
    make: PolicyMaker, layers: int, ranker: RankerSpec, least: int, fits: Fits
) -> Policy | None:
    """Find the policy of the largest ratio that fits, in thousandths, by bisection."""
    low, high = least - 1, _STEPS
    while low < high:
        middle = (low + high + 1) // 2
        fit = fits(make(layers, Fraction(middle, _STEPS), ranker))
        low, high = (middle, high) if fit else (low, middle - 1)
    return make(layers, Fraction(low, _STEPS), ranker) if low >= least else None
