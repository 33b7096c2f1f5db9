"""Simple methods at equal cost: each turns up its own knob until the budget is used."""

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
GSOP_POLICIES = 300  # that its search may measure
_STEPS = 1000


@dataclass(frozen=True)
class Baseline:
    """A method as policies of rising cost, of (layers, ratio, ranker).

    Attributes:
        description: One sentence, with the published setting.
        makers: The first one that can meet the budget counts; none where the policies are made from
            measurements.
        ranker: Its own ranker; None: the run's.
        least: The lowest ratio, in thousandths.
        granularity: Why it may leave a part of a budget unused.
        published: The call that makes it as published; empty where nothing was published.
    """

    description: str
    makers: tuple[PolicyMaker, ...]
    ranker: str | None = None
    least: int = 1
    granularity: str = "no step of its ratio is nearer"
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
    """All tokens in the first k layers, a share after."""

    def make(layers: int, share: Fraction, ranker: RankerSpec) -> Policy:
        return builders.stages(layers, {0: 1, min(k, layers - 1): share}, ranker)

    return make


def _shortv(order: Sequence[int]) -> PolicyMaker:
    """All but a share of the layers frozen, the first of `order` first."""

    def make(layers: int, share: Fraction, ranker: RankerSpec) -> Policy:
        return builders.shortv(layers, order[: layers - int(share * layers)])

    return make


def _fastv(k: int) -> PolicyMaker:
    return lambda layers, share, ranker: builders.fastv(layers, min(k, layers - 1), share)


def _pyramiddrop(first: int | None) -> PolicyMaker:
    return lambda layers, share, ranker: builders.pyramiddrop(layers, share, first)


def _sparsevlm(layers: int, share: Fraction, ranker: RankerSpec) -> Policy:
    return builders.sparsevlm(layers, share=share)


# The order of "FastV like" is the run's ranking from before the decoder, not FastV's own attention.
BASELINES: dict[str, Baseline] = {
    "tokens uniform": _reduction("uniform", "Evenly spaced tokens."),
    "tokens random": _reduction("random", "Tokens drawn at random."),
    "tokens cls": _reduction("cls", "The tokens that [CLS] attends to most."),
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
        "VisionZip's dominant tokens; published: 54 of 576 and 10 averages, here 64 for both.",
        _TOKENS.format(share="64/576", ranker="visionzip"),
    ),
    "tokens cdpruner": _reduction(
        "cdpruner",
        "CDPruner; published: 128, 64, 32 of 576 tokens.",
        'builders.tokens(32, "128/576", RankerSpec("cdpruner", (("clip", "FOLDER"),)))',
    ),
    "VTW": Baseline(
        "No visual tokens from layer K on; published: 15 of 32.",
        (_vtw,),
        least=0,
        granularity=_WHOLE_LAYERS,
        published="builders.vtw(32, 15)",
    ),
    "ShortV": Baseline(
        "Visual tokens stay as they are in the layers that matter least alone, measured on the "
        "calibration samples; published: 19 of 32 layers, 20 samples.",
        (),
        least=0,
        granularity=_WHOLE_LAYERS,
        published=f"builders.shortv(32, [{_SHORTV}])",
    ),
    "FastV like": Baseline(
        "The run's ranking from layer 2 (else 1) on; published: half of the tokens from 2.",
        (_fastv_like(2), _fastv_like(1)),
    ),
    "FastV": Baseline(
        "By attention inside the decoder, from layer 2 (else 1) on; published: half of the tokens.",
        (_fastv(2), _fastv(1)),
        "fastv",
        published="builders.fastv(32)",
    ),
    "PyramidDrop": Baseline(
        "Falling shares from a quarter of the layers (else 2 or 1) on; published: halves.",
        (_pyramiddrop(None), _pyramiddrop(2), _pyramiddrop(1)),
        "pyramiddrop",
        least=100,
        published="builders.pyramiddrop()",
    ),
    "FitPrune": Baseline(
        "As many tokens in each layer as a bound on lost attention allows, by its own search on "
        "the calibration samples; published: 60% of the MACs saved.",
        (),
        "fitprune",
        published="builders.fitprune(builders.FITPRUNE_60)",
    ),
    "SparseVLM": Baseline(
        "By the attention of words, in three steps; published: 300, 200 and 118 of 576 tokens.",
        (_sparsevlm,),
        "sparsevlm",
        granularity="its first drop can keep no more than all tokens",
        published="builders.sparsevlm()",
    ),
    "GSOP": Baseline(
        "Queries, keys and MLPs of two groups of tokens, by [CLS], pruned one after the other, the "
        f"least missed first; at most {GSOP_POLICIES} policies (--evaluations) are measured; "
        "published: 144 and 432 tokens, by accuracy, 30% of the FLOPs.",
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
    """The methods by their label; one that cannot meet the budget at all is left out.

    ranker: the run's, which counts as a method too; usable: names of rankers that the model serves;
    frozen_first: layers in ShortV's order, without which it takes no part; missed: is told each
    method that is left out, with its cheapest policy; further: rankers that count as methods too.
    """
    asked = {f"tokens {spec}": spec for spec in (ranker, *further)}
    methods = {label: _reduction(None, "Asked for by name.") for label in asked}
    for label, method in registry.registered("baselines").items():
        if label not in methods and method.ranker in (None, *usable):
            methods[label] = method
    if frozen_first:
        methods["ShortV"] = replace(methods["ShortV"], makers=(_shortv(frozen_first),))
    found = {}
    for label, method in methods.items():
        spec = RankerSpec(method.ranker) if method.ranker else asked.get(label, ranker)
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
    """The policy of the largest share that fits, in thousandths from `least` on."""
    low, high = least - 1, _STEPS
    while low < high:
        middle = (low + high + 1) // 2
        fit = fits(make(layers, Fraction(middle, _STEPS), ranker))
        low, high = (middle, high) if fit else (low, middle - 1)
    return make(layers, Fraction(low, _STEPS), ranker) if low >= least else None
