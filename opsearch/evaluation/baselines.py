"""The built-in baselines: policies by ratio, published settings and free knobs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction

from opsearch.policy import builders
from opsearch.policy.baseline import Baseline, Knobs, PolicyMaker, reduction
from opsearch.policy.policy import Policy
from opsearch.policy.ranker import RankerSpec

SEARCH_POLICIES = 300  # maximum number of policies that GSOP's and G-Search's search measure
_TOKENS = 'builders.tokens(32, "{share}", RankerSpec("{ranker}"))'
_RUN = "opsearch run --space {search} --model llava-hf/{model} --data calib.jsonl"
_SHORTV = "31, 29, 30, 28, 0, 26, 27, 25, 24, 22, 23, 21, 2, 3, 20, 18, 17, 12, 19"
_WHOLE_LAYERS = "it prunes whole layers"
_SPARSEVLM_HALF = 2  # its first stage is moved within the first half of the layers
_SLOPES = (2, 4, 8, 16, 32)
_IMPORTANT = (0.1, 0.3, 0.5, 0.7, 0.9)


def _vtw(layers: int, share: Fraction, ranker: RankerSpec) -> Policy:
    return builders.vtw(layers, int(share * layers))


def _fastv_like(k: int) -> PolicyMaker:
    """Keep all tokens in the first k layers and a share after them."""

    def make(layers: int, share: Fraction, ranker: RankerSpec) -> Policy:
        return builders.stages(layers, {0: 1, min(k, layers - 1): share}, ranker)

    return make


def shortv_in_order(order: Sequence[int]) -> PolicyMaker:
    """Return the maker that freezes all but a share of the layers, in the given order."""

    def make(layers: int, share: Fraction, ranker: RankerSpec) -> Policy:
        return builders.shortv(layers, order[: layers - int(share * layers)])

    return make


def _fastv(k: int) -> PolicyMaker:
    return lambda layers, share, ranker: builders.fastv(layers, min(k, layers - 1), share)


def _pyramiddrop(first: int | None) -> PolicyMaker:
    return lambda layers, share, ranker: builders.pyramiddrop(layers, share, first)


def _sparsevlm(budget: int = 192, first: int | None = None) -> PolicyMaker:
    return lambda layers, share, ranker: builders.sparsevlm(layers, budget, share, first)


def _from_layer(maker: Callable[[int], PolicyMaker], name: str, last: int) -> Knobs:
    """Return the knob `name`: each layer from 1 to the `last`-th from the end."""
    return lambda layers: {f"{name}={at}": maker(at) for at in range(1, layers - last + 1)}


def _sparsevlm_knobs(layers: int) -> Mapping[str, PolicyMaker]:
    """Return the published proportions of the stages, and other layers of the first stage."""
    tables = {f"budget={name}": _sparsevlm(name) for name in builders.SPARSEVLM}
    firsts = range(1, layers // _SPARSEVLM_HALF + 1)
    return tables | {f"first={at}": _sparsevlm(first=at) for at in firsts}


def _vispruner_knobs(layers: int) -> Mapping[str, PolicyMaker]:
    """Return shares of the tokens that are selected by attention."""
    specs = {share: RankerSpec("vispruner", (("important", share),)) for share in _IMPORTANT}
    specs[0.5] = RankerSpec("vispruner")  # the published share
    return {f"important={share}": _ranked_by(spec) for share, spec in specs.items()}


def _received_knobs(layers: int) -> Mapping[str, PolicyMaker]:
    """Return shares of the vision tower's depth; the paper chooses a layer for each tower."""
    specs = {share: RankerSpec("received", (("layer", share),)) for share in (0.25, 0.75, 1.0)}
    specs[0.5] = RankerSpec("received")
    return {f"layer={share}": _ranked_by(spec) for share, spec in sorted(specs.items())}


def _vispco(k: int) -> PolicyMaker:
    return lambda layers, share, ranker: builders.vispco(layers, k, share, ranker)


def _sigmoid(slope: int) -> PolicyMaker:
    """Move the middle from one depth before the decoder to one after it."""
    return lambda layers, ratio, ranker: builders.sigmoid(layers, 3 * ratio - 1, slope, ranker)


def _late_pyramid(first: int) -> PolicyMaker:
    """Move the last layer up to twice the depth."""

    def make(layers: int, ratio: Fraction, ranker: RankerSpec) -> Policy:
        return builders.late_pyramid(layers, first, first + 2 * ratio * layers, ranker)

    return make


def _vskip(layers: int, share: Fraction, ranker: RankerSpec) -> Policy:
    return builders.vskip(layers, int(share * layers))


def skip_in_order(order: Sequence[tuple[int, str]]) -> PolicyMaker:
    """Return the maker that skips all but a share of the operators, in the given order."""

    def make(layers: int, share: Fraction, ranker: RankerSpec) -> Policy:
        return builders.skip(layers, order[: len(order) - int(share * len(order))])

    return make


def _ranked_by(spec: RankerSpec) -> PolicyMaker:
    return lambda layers, share, ranker: builders.tokens(layers, share, spec)


# "FastV like" uses the run's ranking from before the decoder, not FastV's attention.
BASELINES: dict[str, Baseline] = {
    "tokens uniform": reduction("uniform", "Evenly spaced tokens."),
    "tokens random": reduction("random", "Random tokens."),
    "tokens cls": reduction("cls", "Tokens that [CLS] attends to most."),
    "tokens vispruner": replace(
        reduction(
            "vispruner",
            "VisPruner; published: 128, 64, 32 of 576 tokens, half of them by attention.",
            _TOKENS.format(share="128/576", ranker="vispruner"),
        ),
        knobs=_vispruner_knobs,
    ),
    "tokens divprune": reduction(
        "divprune",
        "DivPrune; published: 0.098 of the tokens.",
        _TOKENS.format(share="0.098", ranker="divprune"),
    ),
    "tokens received": replace(
        reduction(
            "received",
            "Tokens that the patches of a vision layer attend to most, HiPrune's score.",
        ),
        knobs=_received_knobs,
    ),
    "tokens mmtok": reduction(
        "mmtok",
        "MMTok; published: 192, 128, 64 of 576 tokens.",
        _TOKENS.format(share="64/576", ranker="mmtok"),
    ),
    "tokens otprune": reduction(
        "otprune",
        "OTPrune; published: 0.098 of the tokens.",
        _TOKENS.format(share="0.098", ranker="otprune"),
    ),
    "tokens visionzip": reduction(
        "visionzip",
        "VisionZip's dominant tokens; published: 54 of 576 plus 10 merged ones, here 64 dominant.",
        _TOKENS.format(share="64/576", ranker="visionzip"),
    ),
    "tokens cdpruner": reduction(
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
        knobs=_from_layer(_fastv_like, "k", 1),
    ),
    "FastV": Baseline(
        "Fewer tokens by attention in the decoder from layer 2 on, or 1 if the budget requires "
        "it; published: half of the tokens from layer 2.",
        (_fastv(2), _fastv(1)),
        "fastv",
        published="builders.fastv(32)",
        knobs=_from_layer(_fastv, "k", 1),
    ),
    "PyramidDrop": Baseline(
        "Decreasing shares of tokens from a quarter of the layers on, or layer 2 or 1 if the "
        "budget requires it; published: halving at each stage.",
        (_pyramiddrop(None), _pyramiddrop(2), _pyramiddrop(1)),
        "pyramiddrop",
        least=100,
        published="builders.pyramiddrop()",
        knobs=_from_layer(_pyramiddrop, "first", 3),
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
        (_sparsevlm(),),
        "sparsevlm",
        granularity="its first step already keeps all tokens",
        published="builders.sparsevlm()",
        knobs=_sparsevlm_knobs,
    ),
    "GSOP": Baseline(
        "Operations (q, kv, mlp) of two groups of tokens, ranked by [CLS], pruned greedily in "
        f"order of their KL; measures at most {SEARCH_POLICIES} policies (--evaluations); "
        "published: groups of 144 and 432 tokens, ordered by accuracy, 30% of the FLOPs.",
        (),
        granularity="it prunes whole operations",
        published=_RUN.format(
            search="operations --solver greedy --budget 30%", model="llava-1.5-7b-hf"
        ),
    ),
    "VisPCO like": Baseline(
        "Tokens by the run's ranking that fall along a steep sigmoid around a layer, the same for "
        "all samples, where VisPCO (arXiv 2604.15188) predicts layer and share for each.",
        (),
        knobs=_from_layer(_vispco, "k", 1),
        nested=True,
        in_run=False,
    ),
    "P-Sigmoid like": Baseline(
        "Tokens by the run's ranking along a sigmoid of two parameters, as in P-Sigmoid (arXiv "
        "2412.00556).",
        (),
        least=0,
        knobs=lambda layers: {f"slope={slope}": _sigmoid(slope) for slope in _SLOPES},
        nested=True,
        in_run=False,
    ),
    "G-Search like": Baseline(
        "Fewest tokens by the run's ranking, layer by layer and never rising, each adding KL up to "
        "the lowest bound that meets the budget, where G-Search (arXiv 2412.00556) allows no loss "
        f"and meets none; measures at most {SEARCH_POLICIES} policies (--evaluations).",
        (),
        in_run=False,
    ),
    "HiDrop like": Baseline(
        "No visual tokens in the first layers, then all and ever fewer by the run's ranking, as in "
        "HiDrop (arXiv 2602.23699), which trains the model for it.",
        (),
        knobs=lambda layers: {f"first={at}": _late_pyramid(at) for at in range(1, layers // 3 + 1)},
        nested=True,
        in_run=False,
    ),
    "V-Skip": Baseline(
        "No attention of visual tokens from a layer on, where they remain readable and pass MLPs "
        "(arXiv 2606.08511).",
        (_vskip,),
        least=0,
        granularity=_WHOLE_LAYERS,
        in_run=False,
    ),
    "operator skipping": Baseline(
        "Attention or MLP of visual tokens is skipped where that alone gives the lowest KL on the "
        "calibration samples; all remain readable (arXiv 2606.31903, by another criterion).",
        (),
        least=0,
        granularity="it skips whole operators",
        in_run=False,
    ),
}
DOP_AS_PUBLISHED = _RUN.format(
    search="dop --objective additive --budget 14%", model="llava-v1.6-vicuna-7b-hf"
)
