"""`opsearch bench`: a policy's time and memory beside the original's, on one workload."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TextIO

from opsearch.bench.checkpoints import FAMILIES, random_model, random_workload
from opsearch.bench.latency import Row, kv_stored, latency_row
from opsearch.bench.pairs import Workload, timed_pairs
from opsearch.costs.shape import SHAPES, VISUAL_TOKENS, Shape
from opsearch.errors import OpsearchError, PolicyError, UnknownNameError
from opsearch.measure.samples import batch_inputs, encode
from opsearch.policy import Policy, RankerSpec
from opsearch.progress import Stages
from opsearch.rankers import make_ranker
from opsearch.rankers.prompt import PROMPT_NEEDS
from opsearch.runtime.checks import check_fits
from opsearch.runtime.graphs import Graphs
from opsearch.runtime.load import (
    DTYPES,
    check_attention,
    check_device,
    load_config,
    load_model,
    load_processor,
)
from opsearch.tasks.embedded import embedded
from opsearch.turns import LAYERS_BACK, before_decoder

_USUAL_TEXT = 65


@dataclass(frozen=True)
class Setup:
    """What is timed, as the options of the command.

    With `shape`, a checkpoint's decoder of random weights is timed instead of `model`: with
    `layers` (default: its own), `visual` and `text` tokens (default: a usual image, 65). With
    `graphs`, the policy is timed once more, its layers launched as CUDA graphs.
    """

    model: str = "demo"
    shape: str | None = None
    layers: int | None = None
    visual: int | None = None
    text: int | None = None
    batch: int = 1
    device: str = "cpu"
    dtype: str = "float32"
    attention: str = "sdpa"
    new_tokens: int = 17
    repeats: int = 7
    graphs: bool = False

    def __post_init__(self) -> None:
        if self.shape is None:
            for name in ("layers", "visual", "text"):
                if (value := getattr(self, name)) is not None:
                    raise OpsearchError(
                        f"--{name} {value} is for random models; give a --shape, e.g. llava-next-7b"
                    )
        elif self.shape not in SHAPES:
            raise UnknownNameError("shape", self.shape, list(SHAPES))


def bench(path: Path, setup: Setup, stages: Stages, out: Path | None = None) -> Row:
    """Time the original and the policy of a run folder or file in alternation; returns the result.

    Of it, `graphs` holds the times with CUDA graphs, where they were asked for. out: file that gets
    a row of JSON after every pair of generations, and the result at the end.
    """
    policy = Policy.from_pretrained(path)
    check_place(setup)
    with stages.stage("making the model" if setup.shape else "loading the model"):
        if setup.shape:
            policy = for_shape(policy, setup)
            model, work = _random(setup)
        else:
            model, work = loaded([policy], setup)
        check_fits(policy, model.config)
    kv, shape = kv_stored(model, work, policy), Shape.from_config(model.config)

    def timed(graphs: Graphs | None, mode: str) -> Row:
        pairs = []
        with stages.stage(f"timing {setup.repeats} pairs{mode}") as tick:
            for pair in timed_pairs(
                model, work, policy, setup.new_tokens, setup.repeats, graphs=graphs
            ):
                pairs.append(pair)
                write({"seconds": asdict(pair), "graphs": graphs is not None})
                tick(len(pairs), setup.repeats)
        return latency_row(shape, policy, work, pairs)

    with rows_to(out) as write:
        row = {**asdict(setup), **timed(None, ""), "kv_bytes": asdict(kv)}
        row["graphs"] = timed(Graphs(), ", CUDA graphs") if setup.graphs else None
        write(row)
    return row


def check_place(setup: Setup) -> None:
    """Raise ModelError unless the model can run there, in this dtype and with this attention."""
    check_device(setup.device, setup.dtype, "bench")
    check_attention(setup.attention, setup.dtype, setup.device)


def _random(setup: Setup) -> tuple[Any, Workload]:
    """A model of random weights with the decoder of a checkpoint, and a prompt for it."""
    name = setup.shape or ""
    shape = replace(SHAPES[name], layers=setup.layers or SHAPES[name].layers)
    how = DTYPES[setup.dtype], setup.device, setup.attention
    model = random_model(FAMILIES[name], shape, *how)
    visual, text = setup.visual or VISUAL_TOKENS[name], setup.text or _USUAL_TEXT
    return model, random_workload(model, setup.batch, visual, text)


def for_shape(policy: Policy, setup: Setup) -> Policy:
    """The policy for a random model: evenly thinned to its layers, ranking without an image.

    Which tokens are kept does not matter for time; what a ranker reads of the vision tower is not
    there, so a random order stands for its choice. Raises PolicyError where layers are left out of
    a policy that ranks inside the decoder.
    """
    first = before_decoder(policy)
    inside = tuple(pair for pair in policy.rankers if pair[1].name in LAYERS_BACK)
    if setup.layers is not None:
        if inside:
            raise PolicyError(
                f"policy {policy.name} ranks before layers {', '.join(str(r) for r, _ in inside)}, "
                "which mean nothing where layers are left out; leave out --layers"
            )
        kept = [(2 * i + 1) * policy.num_layers // (2 * setup.layers) for i in range(setup.layers)]
        policy = replace(policy, counts=tuple(policy.counts[layer] for layer in kept))
    captured = make_ranker(first).needs - PROMPT_NEEDS if first else None
    return replace(policy, rankers=((0, RankerSpec("random")), *inside)) if captured else policy


def loaded(policies: Iterable[Policy], setup: Setup) -> tuple[Any, Workload]:
    """A real model, and a batch of one embedded picture question as its processor encodes it.

    Raises PolicyError or ModelError for policies that do not fit, before weights are loaded.
    """
    config, processor = load_config(setup.model), load_processor(setup.model)
    for policy in policies:
        check_fits(policy, config)
    sample = encode(embedded("calibration", 1, 0), processor, config)[0]
    inputs = batch_inputs([sample] * setup.batch, setup.device)
    model = load_model(setup.model, setup.dtype, setup.device, setup.attention)
    return model, Workload(inputs, setup.batch, sample.n_visual, sample.n_other)


@contextmanager
def rows_to(path: Path | None) -> Iterator[Any]:
    """A function that appends a row to the file and flushes it; without a file it does nothing."""
    if path is None:
        yield lambda row: None
        return
    try:
        file: TextIO = path.open("a", encoding="utf-8")
    except OSError as error:
        raise OpsearchError(
            f"{path} cannot be written ({error.strerror}); give --out a file in another folder"
        ) from error
    with file:
        yield lambda row: print(json.dumps(row), file=file, flush=True)
