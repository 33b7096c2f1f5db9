"""`opsearch bench`: time and memory of a policy against the original on one workload."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TextIO

from opsearch.costs.shape import Shape, known_checkpoint
from opsearch.data.embedded import embedded
from opsearch.errors import OpsearchError, PolicyError, shortened
from opsearch.models.encoding import batch_inputs, encode
from opsearch.models.families import family_for
from opsearch.models.loading import DTYPES
from opsearch.models.positions import check_positions, prompt_positions
from opsearch.models.pruned.checks import check_fits, check_full_size
from opsearch.models.pruned.cuda_graphs import Graphs
from opsearch.models.spec import ModelSpec
from opsearch.policy import builders
from opsearch.policy.policy import Policy
from opsearch.policy.ranker import RankerSpec
from opsearch.policy.schedule import before_decoder
from opsearch.progress import Progress
from opsearch.rankers import make_ranker
from opsearch.rankers.base import PROMPT_NEEDS
from opsearch.timing.generation import Workload, timed_pairs
from opsearch.timing.policy_latency import LatencyRow, kv_stored, latency_row
from opsearch.timing.random_models import random_model, random_workload

_USUAL_TEXT = 65
_SHARE = "2/9"  # of the visual tokens, kept by each ranker of `bench_peers`


@dataclass(frozen=True)
class Setup:
    """The workload, as the options of the command.

    Attributes:
        model: The model to time.
        shape: A checkpoint whose decoder is timed with random weights instead of `model`.
        layers: Layers of the random model; None for the checkpoint's.
        visual: Visual tokens of the random model's prompt; None for a usual image.
        text: Other tokens of the random model's prompt; None for 65.
        batch: Prompts in the batch.
        device: Device of the model.
        dtype: Data type of the weights.
        attention: Attention implementation.
        new_tokens: Tokens to generate.
        repeats: Pairs of generations.
        graphs: True to time the policy also with its layers launched as CUDA graphs.
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
        else:
            known_checkpoint(self.shape)

    @property
    def spec(self) -> ModelSpec:
        """The model to time, and how its weights are loaded."""
        return ModelSpec(self.model, self.dtype, self.device, self.attention)


def bench(path: Path, setup: Setup, progress: Progress, out: Path | None = None) -> LatencyRow:
    """Time the original and the policy of a run folder or file in alternation.

    Args:
        path: The run folder or policy file.
        setup: The workload.
        progress: Shows the stages.
        out: File to append a row of JSON to after every pair of generations, and the result at the
            end.

    Returns:
        The result; its `graphs` holds the times with CUDA graphs, None without.
    """
    policy = Policy.from_pretrained(path)
    check_full_size(policy, "bench")
    setup.spec.check("bench")
    with progress.stage("making the model" if setup.shape else "loading the model"):
        if setup.shape:
            policy = for_shape(policy, setup)
            model, work = _random_setup(setup)
            _say_positions(model.config, work, setup, progress)
        else:
            model, work = loaded([policy], setup)
        check_fits(policy, model.config)
    kv, shape = kv_stored(model, work, policy), Shape.from_config(model.config)

    def timed(graphs: Graphs | None, mode: str) -> LatencyRow:
        pairs = []
        with progress.stage(f"timing {setup.repeats} pairs{mode}") as tick:
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


def _random_setup(setup: Setup) -> tuple[Any, Workload]:
    """Return a model of random weights with the decoder of a checkpoint, and its prompts."""
    checkpoint = known_checkpoint(setup.shape or "")
    model = random_model(
        checkpoint.family,
        replace(checkpoint.shape, layers=setup.layers or checkpoint.shape.layers),
        dtype=DTYPES[setup.dtype],
        device=setup.device,
        attention=setup.attention,
    )
    visual, text = setup.visual or checkpoint.visual_tokens, setup.text or _USUAL_TEXT
    return model, random_workload(model, setup.batch, visual, text)


def _say_positions(config: Any, work: Workload, setup: Setup, progress: Progress) -> None:
    """Print a note where the timed prompts exceed the positions of their checkpoint."""
    most = known_checkpoint(setup.shape or "").positions
    one = {name: tensor[:1] for name, tensor in work.inputs.items()}
    needed = prompt_positions(one, (work.n_visual, work.n_other), config) + setup.new_tokens - 1
    if needed > most:
        progress.say(
            f"{needed} positions are timed, but {setup.shape} has {most}: beyond them its answers "
            "mean nothing; give a smaller --visual, --text or --new-tokens for a real prompt"
        )


def for_shape(policy: Policy, setup: Setup) -> Policy:
    """Return the policy for a random model: evenly thinned to its layers, ranking without an image.

    Time does not depend on which tokens are kept, so a random order replaces rankers that read the
    vision tower, which does not run.

    Raises:
        PolicyError: Layers are left out, and the policy ranks inside the decoder.
    """
    first = before_decoder(policy)
    inside = tuple(pair for pair in policy.rankers if pair[1].inside)
    if setup.layers is not None:
        if inside:
            raise PolicyError(
                f"policy {shortened(policy.name)} ranks before layers "
                f"{', '.join(str(r) for r, _ in inside)}, which mean nothing where layers are left "
                "out; leave out --layers"
            )
        kept = [(2 * i + 1) * policy.num_layers // (2 * setup.layers) for i in range(setup.layers)]
        policy = replace(policy, counts=tuple(policy.counts[layer] for layer in kept))
    captured = make_ranker(first).needs - PROMPT_NEEDS if first else None
    return replace(policy, rankers=((0, RankerSpec("random")), *inside)) if captured else policy


def loaded(policies: Iterable[Policy], setup: Setup) -> tuple[Any, Workload]:
    """Load a model, and encode a batch of one embedded picture question.

    Raises:
        PolicyError: A policy does not fit; raised before weights are loaded.
        ModelError: The model cannot be used.
    """
    config, processor = setup.spec.load_config(), setup.spec.load_processor()
    for policy in policies:
        check_fits(policy, config)
    sample = encode(embedded("calibration", 1, 0), processor, config)[0]
    check_positions([sample], config, setup.new_tokens, "--new-tokens")
    inputs = batch_inputs([sample] * setup.batch, setup.device)
    return setup.spec.load(), Workload(inputs, setup.batch, sample.n_visual, sample.n_other)


@contextmanager
def rows_to(path: Path | None) -> Iterator[Any]:
    """Yield a function that appends a row to the file and flushes it; no file, no effect."""
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


def bench_peers(setup: Setup, progress: Progress, out: Path | None = None) -> list[LatencyRow]:
    """Time every rule that the model supports in alternation with the original.

    Args:
        setup: The workload.
        progress: Shows the stages.
        out: File to append each row to.

    Returns:
        A row per rule.
    """
    if setup.shape:
        raise OpsearchError(
            f"--peers times rules that read pictures, and random models of --shape {setup.shape} "
            "have none; leave it out, or run `python -m benchmarks --suite rankers`"
        )
    setup.spec.check("bench")
    rules, rows = peers(setup.spec.load_config()), []
    with progress.stage("loading the model"):
        model, work = loaded(list(rules.values()), setup)
    shape = Shape.from_config(model.config)
    with progress.stage(f"timing {len(rules)} rules") as tick, rows_to(out) as write:
        for name, policy in rules.items():
            pairs = list(timed_pairs(model, work, policy, 1, setup.repeats))
            named = {"rule": name, "before_decoder": before_decoder(policy) is not None}
            rows.append({**named, **latency_row(shape, policy, work, pairs)})
            write(rows[-1])
            tick(len(rows), len(rules))
    return rows


def peers(config: Any) -> dict[str, Policy]:
    """Return the supported rules by name: rankers, then methods inside the decoder."""
    layers = Shape.from_config(config).layers
    found = {
        name: builders.tokens(layers, _SHARE, RankerSpec(name))
        for name in family_for(config.model_type).rankers(config)
    }
    found["FastV"] = builders.fastv(layers)
    found["PyramidDrop"] = builders.pyramiddrop(layers)
    found["SparseVLM"] = builders.sparsevlm(layers)
    if layers == 32:  # the published recipe's
        found["FitPrune"] = builders.fitprune(builders.FITPRUNE_60)
    return found
