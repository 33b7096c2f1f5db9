"""How methods are made at their published defaults, for LLaVA-1.5-7B where nothing else is said.

Calls of Python, after `from opsearch import RankerSpec, builders, reranked`; of searches the
command, in which calib.jsonl stands for your calibration items. DOP's budget is of LLaVA-NeXT-7B.
"""

_TOKENS = 'builders.tokens(32, "{share}", RankerSpec("{ranker}"))'
_RUN = "opsearch run --space {search} --model llava-hf/{model} --data calib.jsonl"
_SHORTV = "31, 29, 30, 28, 0, 26, 27, 25, 24, 22, 23, 21, 2, 3, 20, 18, 17, 12, 19"

AS_PUBLISHED = {
    "tokens vispruner": _TOKENS.format(share="128/576", ranker="vispruner"),
    "tokens divprune": _TOKENS.format(share="0.098", ranker="divprune"),
    "tokens visionzip": _TOKENS.format(share="64/576", ranker="visionzip"),
    "tokens cdpruner": (
        'builders.tokens(32, "128/576", RankerSpec("cdpruner", (("clip", "FOLDER"),)))'
    ),
    "VTW": "builders.vtw(32, 15)",
    "ShortV": f"builders.shortv(32, [{_SHORTV}])",
    "FastV": "reranked.fastv(32)",
    "PyramidDrop": "reranked.pyramiddrop()",
    "FitPrune": "reranked.fitprune(reranked.FITPRUNE_60)",
    "SparseVLM": "reranked.sparsevlm()",
    "GSOP": _RUN.format(search="operations --solver greedy --budget 30%", model="llava-1.5-7b-hf"),
    "dop additive": _RUN.format(
        search="dop --objective additive --budget 14%", model="llava-v1.6-vicuna-7b-hf"
    ),
}
