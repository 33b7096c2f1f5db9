"""`opsearch bench --engine vllm`: a served policy against vLLM without one, in the same run.

Both engines run at once and work in turn, so that a slower moment of the machine meets both.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from opsearch.commands.serve import check_installed, check_options, served_model
from opsearch.costs.base import Cost, at_full_size, stock_cost
from opsearch.costs.flops import Flops
from opsearch.costs.kv import KVBytes
from opsearch.costs.prefill import Prefill
from opsearch.costs.shape import Shape
from opsearch.data.embedded import embedded
from opsearch.models.encoding import Sample, encode, prompt_text
from opsearch.policy.policy import Policy
from opsearch.problem.budget import total_cost
from opsearch.progress import Progress
from opsearch.serving.engines import Answer, Engine, Question, set_up_environment
from opsearch.serving.load import all_at_once, arriving
from opsearch.timing.bench import rows_to
from opsearch.timing.clock import Spread

_RATES = (0.5, 0.8)  # of what the engine without a policy answers per second
_ROUNDS = 2  # of all questions at once, for each engine
_WARM_UPS = 2
STAGES = 4
_SHARED = "--gpu-memory-utilization=0.45"  # of one device, which both engines use
SIDES = ("stock", "policy")

Row = dict[str, Any]


@dataclass(frozen=True)
class Load:
    """The requests.

    Attributes:
        requests: Number of requests at once, and at each rate of arrival.
        new_tokens: Number of tokens of each answer.
        repeats: Number of pairs of requests that are alone.
    """

    requests: int = 16
    new_tokens: int = 17
    repeats: int = 7


def bench_engine(
    path: Path,
    model: str | None,
    options: Sequence[str],
    load: Load,
    progress: Progress,
    out: Path | None = None,
) -> Row:
    """Time vLLM with and without the policy of a run folder or file.

    Args:
        path: The run folder or policy file.
        model: Name of the model; None: the one that the policy was searched on.
        options: Options of vLLM's server, for both engines.
        load: The requests.
        progress: Shows the stages.
        out: File to append the result to.

    Returns:
        The times, of each part [low quartile, median, high quartile], and costs by the cost models.
    """
    check_options(options)
    served = served_model(path, model)
    check_installed()
    set_up_environment()
    config, processor = served.spec.load_config(), served.spec.load_processor()
    number = max(load.requests, load.repeats, _WARM_UPS)
    samples = encode(embedded("calibration", number, 0), processor, config)
    questions = [question(sample, processor) for sample in samples]
    costs = _costs(served.policy, config, samples)
    starts = [partial(Engine, served.folder, each, (_SHARED, *options)) for each in (None, path)]
    with rows_to(out) as write:
        row = {
            "policy_name": served.policy.name,
            **asdict(load),
            "visual": round(mean(sample.n_visual for sample in samples)),
            "other": round(mean(sample.n_other for sample in samples)),
            **costs,
            **asyncio.run(_measure(starts, questions, load, progress)),
        }
        write(row)
    return row


def question(sample: Sample, processor: Any) -> Question:
    """Return a sample as an engine takes it."""
    text = prompt_text(processor, sample.item)
    tokens = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    return Question(tokens, [picture.image for picture in sample.item.pictures()])


def _costs(policy: Policy, config: Any, samples: Sequence[Sample]) -> Row:
    """Return the ratios of FLOPs of the decoder and the whole prefill, and of KV bytes."""
    shape = Shape.from_config(config)
    sizes = [sample.size for sample in samples]
    named: dict[str, Cost] = {"decoder_flops": Flops(shape), "kv_bytes": KVBytes(shape)}
    if all(size.image_flops is not None for size in sizes):
        named["prefill_flops"] = Prefill(shape)
    return {
        name: round(total_cost(cost, policy, sizes) / stock_cost(cost, at_full_size(sizes)), 5)
        for name, cost in named.items()
    }


async def _measure(
    starts: Sequence[Callable[[], Engine]],
    questions: Sequence[Question],
    load: Load,
    progress: Progress,
) -> Row:
    """Start the engines, and return their times."""
    engines: list[Engine] = []
    try:
        with progress.stage("starting vLLM without and with the policy"):
            engines += (start() for start in starts)
        alone = await _one_at_a_time(engines, questions, load, progress)
        at_once, most = await _at_once(engines, questions[: load.requests], load, progress)
        rows = await _arriving(engines, questions[: load.requests], load, most, progress)
    finally:
        for engine in engines:
            engine.close()
    return {**alone, **at_once, "arriving": rows}


async def _one_at_a_time(
    engines: Sequence[Engine], questions: Sequence[Question], load: Load, progress: Progress
) -> Row:
    """Return the times of requests that are alone, in pairs of alternating order."""
    found: list[list[Answer]] = [[], []]
    with progress.stage(f"timing {load.repeats} pairs, one request at a time") as tick:
        for pair in range(-_WARM_UPS, load.repeats):
            for side in (0, 1) if pair % 2 else (1, 0):
                answer = await engines[side].answer(questions[pair], load.new_tokens)
                if pair >= 0:
                    found[side].append(answer)
            tick(max(pair + 1, 0), load.repeats)
    parts = {"first_token": [[answer.first for answer in side] for side in found]}
    if load.new_tokens > 1:
        parts["per_token"] = [[answer.per_token or 0.0 for answer in side] for side in found]
    return {name: _compared(*times) for name, times in parts.items()}


def _compared(stock: Sequence[float], policy: Sequence[float]) -> Row:
    """Return the spreads of both in ms, and of their ratio in each pair."""
    return {
        "stock_ms": Spread.of(stock).row(1e3),
        "policy_ms": Spread.of(policy).row(1e3),
        "ratio": Spread.of([new / old for old, new in zip(stock, policy, strict=True)]).row(),
    }


async def _at_once(
    engines: Sequence[Engine], questions: Sequence[Question], load: Load, progress: Progress
) -> tuple[Row, float]:
    """Return what engines answer per second at most and how full their caches were."""
    seconds: list[list[float]] = [[], []]
    for engine in engines:
        engine.peak_usage()  # of earlier requests
    with progress.stage(f"timing {len(questions)} requests at once") as tick:
        for turn in range(_ROUNDS):
            for side in (0, 1) if turn % 2 else (1, 0):
                spent, _ = await all_at_once(engines[side], questions, load.new_tokens)
                seconds[side].append(spent)
                tick(sum(map(len, seconds)), 2 * _ROUNDS)
    rates = [len(questions) / mean(side) for side in seconds]
    used = [engine.peak_usage() for engine in engines]
    return {
        "requests_per_s": {**_by_side(rates), "ratio": round(rates[1] / rates[0], 4)},
        "kv_in_use": {**_by_side(used), "ratio": round(used[1] / used[0], 4)},
    }, rates[0]


async def _arriving(
    engines: Sequence[Engine],
    questions: Sequence[Question],
    load: Load,
    most: float,
    progress: Progress,
) -> list[Row]:
    """Return the times to the first token of requests that arrive at random."""
    rows = []
    with progress.stage(f"timing {len(questions)} requests that arrive at random") as tick:
        for number, share in enumerate(_RATES):
            rate, row = share * most, Row()
            for side, engine in zip(SIDES, engines, strict=True):
                answers = await arriving(engine, questions, load.new_tokens, rate, number)
                first = [1e3 * answer.first for answer in answers]
                row[f"{side}_ms"] = [float(f"{q:.5g}") for q in np.quantile(first, (0.5, 0.99))]
                tick(2 * number + 1 + SIDES.index(side), 2 * len(_RATES))
            rows.append({"per_s": float(f"{rate:.4g}"), "share": share, **row})
    return rows


def _by_side(values: Sequence[float]) -> Row:
    return {side: float(f"{value:.4g}") for side, value in zip(SIDES, values, strict=True)}
