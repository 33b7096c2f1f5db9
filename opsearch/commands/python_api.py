"""Functions of `import opsearch`: the commands, for models and items in memory.

Errors are exceptions of `opsearch.errors`. Progress is drawn in terminals and notebooks, and logged
to the logger "opsearch". Ctrl-C keeps all finished measurements, and a solver that has found a
policy returns it.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any
from weakref import finalize

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from opsearch.adaptive.load import Method, members
from opsearch.commands.adapt import Adapted
from opsearch.commands.adapt import adapt as adapt_run
from opsearch.commands.analyze import analyze
from opsearch.commands.compare import compare as compare_run
from opsearch.commands.draws import compare_draws
from opsearch.commands.front import Front, run_front
from opsearch.commands.run import run as run_config
from opsearch.commands.run import search_and_save, search_progress
from opsearch.commands.search_result import SearchResult
from opsearch.commands.solve import solve as solve_run
from opsearch.console import PlainConsole
from opsearch.costs.base import at_full_size
from opsearch.costs.shape import Shape
from opsearch.data.item import Item
from opsearch.errors import DataError, echo
from opsearch.evaluation import BUDGETS, SPACES
from opsearch.evaluation.answers import Answers
from opsearch.evaluation.evaluate import Scores, answer_both
from opsearch.measure.engine import Engine
from opsearch.measure.planning.memory import memory_for
from opsearch.measure.storage.store import Store
from opsearch.measure.workers.cluster import Workers
from opsearch.models.encoding import encode
from opsearch.models.image_settings import encode_for
from opsearch.models.positions import check_answer_positions, check_positions
from opsearch.models.pruned.checks import check_fits
from opsearch.models.spec import ModelSpec
from opsearch.policy.builders import identity
from opsearch.policy.policy import Policy
from opsearch.policy.ranker import RankerSpec
from opsearch.problem.budget import Budget, total_cost
from opsearch.problem.objective_factory import ObjectiveFactory
from opsearch.problem.solution import Solver
from opsearch.problem.spaces.base import Space
from opsearch.progress import Progress
from opsearch.registry.failures import naming_parts
from opsearch.runs.config import IN_MEMORY, RunConfig, default_space
from opsearch.runs.image_search import states
from opsearch.runs.prepare import settle_for
from opsearch.runs.samples import given_items
from opsearch.runs.session import measurement_facts
from opsearch.runs.setup import make_cost, parse_budgets

Budgets = str | Budget | Sequence[str | Budget]


@naming_parts()
def search(
    model: Any,
    processor: Any,
    items: Sequence[Item],
    *,
    budget: Budgets = "30%",
    space: str | Space | None = None,
    objective: str | ObjectiveFactory | None = None,
    solver: str | Solver | None = None,
    ranker: str | RankerSpec | None = None,
    images: str | Sequence[str] = "1",
    heldout: Sequence[Item] = (),
    out: str | Path | None = None,
    replace: bool = False,
    progress: bool = True,
    **settings: Any,
) -> SearchResult:
    """Search a policy for a loaded model on items in memory.

    The result is that of `opsearch run` with the same settings on the same items.

    Args:
        model: A multimodal LLM of a supported family; patched or quantised ones are measured as
            they are.
        processor: Its processor, with a chat template.
        items: The calibration items; those of one question about the same images are one sample.
        budget: One or several budgets, e.g. "30%" or ["20%", "50%kv"].
        space: Name of a space, with parameters if it has any, or a space; None: shares, or dop if
            an objective, a solver or a setting of another space is given.
        objective: Name of an objective, or an objective factory; None: chosen by the time that
            measuring takes.
        solver: Name of a solver, or a solver; None: chosen by the form of the objective.
        ranker: Name of a ranker, "name(parameter=value)", or a spec; None: that of the family.
            Not used if `space` is an object, whose policies have their own.
        images: Image settings to search among, as shares of the visual tokens that the processor
            makes by itself, e.g. "1,1/2,1/4". `result.policy.processor(processor)` encodes prompts
            with the setting of the answer.
        heldout: Held-out items; without them the comparison has no accuracies. All are used; a line
            of the progress counts those that share an image or a group with calibration items.
        out: The run folder, in which an interrupted search resumes; an answer of other settings
            stays, and this one gets a folder in it (`result.folder`). None: a temporary folder.
        replace: Write over the answer that the run folder holds.
        progress: Show progress.
        **settings: Further settings of `RunConfig`: seed, verify, evaluations, effort, complete,
            memory, positions, n_v, kv, stages, keep, tie, groups, points, pairs, answer_tokens.

    Raises:
        OpsearchError: A setting, an item or the model cannot be used.
    """
    if space is None:
        space = default_space(
            {"objective": objective, "solver": solver, "ranker": ranker and str(ranker), **settings}
        )
    named = {"space": space, "objective": objective, "solver": solver}
    given = {name: part for name, part in named.items() if isinstance(part, str)}
    parts = {name: part for name, part in named.items() if not isinstance(part, str | None)}
    spec = _loaded_as(model)
    items, heldout = _listed(items), _listed(heldout)
    if not items:
        raise DataError("there are no items to search on; give at least one")
    with ExitStack() as temporary:
        if out is None:
            out = mkdtemp(prefix="opsearch-")
            temporary.callback(shutil.rmtree, out, ignore_errors=True)
        config = RunConfig.checked(
            model=spec.name,
            dtype=spec.dtype,
            device=spec.device,
            attention=spec.attention,
            **given,
            data=Path(IN_MEMORY),
            samples=len(items),
            heldout=len(heldout),
            budget=_texts(budget),
            ranker=None if ranker is None else str(ranker),
            images=images,
            out=Path(out),
            **settings,
        )
        budgets = parse_budgets(_several(budget))
        settled = settle_for(model.config, config, {**parts, "budgets": budgets})
        console = PlainConsole(stderr=True) if progress else None
        shown = search_progress(console, settled.settings, loading=0)
        drawn = given_items(items, heldout)
        for note in drawn.notes:
            shown.say(note)
        counts = {"samples": len(drawn.calibration), "heldout": len(drawn.heldout)}
        settled = dataclasses.replace(settled, config=settled.config.model_copy(update=counts))
        both = drawn.calibration, drawn.heldout
        prepared = states(settled, processor, both, shown, if_answered=1)
        result = search_and_save(prepared, shown, model, replace=replace)
        # From here on the folder goes with the result.
        finalize(result, temporary.pop_all().close)
    return result


def _loaded_as(model: Any) -> ModelSpec:
    """Return the name and the settings with which the command line would load this model."""
    return ModelSpec(
        name=str(model.config.name_or_path or model.config.model_type),
        dtype=str(model.dtype).removeprefix("torch."),
        device=str(model.device),
        attention=str(model.config._attn_implementation),
    )


def _listed(items: Iterable[Item]) -> list[Item]:
    """Return items as a list; raise DataError if one is something else, e.g. a line of a file."""
    if isinstance(items, str | Path):
        raise DataError(
            f"{items} holds no items in memory; give opsearch.load_items({echo(items)})"
        )
    listed = list(items)
    for each in listed:
        if not isinstance(each, Item):
            raise DataError(
                f"an item is of type {type(each).__name__}; give each as opsearch.Item(...), or "
                "read a file with opsearch.load_items"
            )
    return listed


def _several(budget: Budgets) -> list[str | Budget]:
    several = [budget] if isinstance(budget, str) or not isinstance(budget, Sequence) else budget
    # A number is no budget: as a text it gets the error that names examples.
    return [each if isinstance(each, Budget) else str(each) for each in several]


def _texts(budget: Budgets) -> tuple[str, ...]:
    return tuple(each if isinstance(each, str) else each.text for each in _several(budget))


@naming_parts()
def run(
    config: RunConfig,
    *,
    workers: Workers | None = None,
    replace: bool = False,
    progress: bool = True,
) -> SearchResult:
    """Search with the settings of a run.yaml; model and data are loaded by name.

    Args:
        config: The settings, e.g. `RunConfig.load(Path("runs/demo/run.yaml"))`.
        workers: Processes or a Ray cluster that measure; None: this process.
        replace: Write over the answer that the folder of the settings holds; otherwise an answer of
            other settings stays, and this one gets a folder in it (`result.folder`).
        progress: Show progress.

    Raises:
        OpsearchError: The run cannot be completed; the message states the reason and the next step.
    """
    console = PlainConsole(stderr=True, quiet=not progress)
    return run_config(config, console, workers=workers, replace=replace)


@naming_parts()
def solve(
    run: str | Path,
    *,
    budget: Budgets | None = None,
    objective: str | None = None,
    solver: str | None = None,
    evaluations: int | None = None,
    seed: int | None = None,
    out: str | Path | None = None,
    replace: bool = False,
) -> SearchResult:
    """Solve a run again from its stored measurements; no model is loaded.

    Args:
        run: The run folder.
        budget: One or several budgets; None, here and below: as in the run.
        objective: An objective whose measurements are stored.
        solver: A solver for the form of the objective.
        evaluations: Maximum number of points that the solver evaluates.
        seed: Seed of the solver.
        out: Folder for the results; None: a further answer of the run (`result.folder`).
        replace: Write over the answer of the run, or of `out`.

    Raises:
        RunFolderError: The run lacks measurements; names the command that makes them.
        OpsearchError: The space of the run was an object, which its folder does not hold.
    """
    return solve_run(
        Path(run),
        budget=None if budget is None else _texts(budget),
        objective=objective,
        solver=solver,
        evaluations=evaluations,
        seed=seed,
        out=None if out is None else Path(out),
        replace=replace,
    )


@naming_parts()
def front(run: str | Path, *, cost: str = "flops", out: str | Path | None = None) -> Front:
    """Return the exact Pareto front of a run's measurements.

    Args:
        run: The run folder.
        cost: flops, prefill, kv, latency, or a cost of another package.
        out: Folder to which the front is also written as front.csv; None: the run folder.

    Returns:
        The front: `table` (a DataFrame by rising cost) and `sentence` (which points are proved).

    Raises:
        RunFolderError: The run lacks measurements.
        OpsearchError: The objective has no front, or the space of the run was an object, which its
            folder does not hold.
    """
    return run_front(Path(run), cost, None if out is None else Path(out))[0]


@naming_parts()
def compare(
    run: str | Path,
    budgets: Budgets = BUDGETS,
    *,
    samples: int = 300,
    spaces: Sequence[str] = SPACES,
    rankers: Sequence[str] = (),
    draws: int | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Compare searched policies and baselines at several budgets, on test samples.

    Args:
        run: The run folder, whose model and data are loaded again.
        budgets: One or several budgets; each method uses as much of each as it can.
        samples: Maximum number of test samples.
        spaces: Spaces to search.
        rankers: Additional rankers to compare.
        draws: Repeat all choices on this many draws of the calibration samples; None: compare on
            the samples of the run.
        progress: Show progress.

    Returns:
        One row per budget and method: costs, KL, Rel. Avg. with its interval, and accuracy. With
        `draws`: mean, spread over draws and interval of KL and Rel. Avg., and the difference from
        the method `opsearch`, which is the run's own search.

    Raises:
        OpsearchError: The run, its model or its data cannot be used.
    """
    console = PlainConsole(stderr=True, quiet=not progress)
    texts = _texts(budgets)
    given: dict[str, Any] = {"samples": samples, "spaces": spaces, "rankers": rankers}
    if draws is not None:
        compare_draws(Path(run), texts, draws, console=console, **given)
        return analyze("draws", [Path(run)])[0].tables["draws.csv"]
    compare_run(Path(run), texts, console=console, **given)
    analysis, _ = analyze("pareto", [Path(run)])
    return analysis.tables["pareto.csv"]


@naming_parts()
def adapt(
    run: str | Path,
    *,
    policies: int = 4,
    selector: str = "question",
    out: str | Path | None = None,
    progress: bool = True,
) -> Adapted:
    """Choose a few policies and a selector, which gives each question one of them.

    The mean cost over the run's calibration samples keeps to its budget.

    Args:
        run: The run folder, whose model and data are loaded again.
        policies: Largest number of policies, 2 to 8.
        selector: What the choice reads of a request: question, image or both, or a part of your
            own.
        out: Folder for the set; None: `adaptive` in the run folder.
        progress: Show progress.

    Returns:
        The set (`policies`, a `PolicySet`), its comparison with one policy at the same mean cost,
        and what it does on each kind of question.

    Raises:
        OpsearchError: The run or its budget cannot be used.
    """
    console = PlainConsole(stderr=True, quiet=not progress)
    folder = None if out is None else Path(out)
    return adapt_run(Path(run), policies=policies, selector=selector, out=folder, console=console)


@naming_parts()
def evaluate(
    model: Any,
    processor: Any,
    items: Sequence[Item],
    policy: Method,
    *,
    original: Answers | None = None,
    answer_tokens: int | None = None,
    progress: bool = True,
) -> Scores:
    """Answer items with the original and with a policy.

    Args:
        model: A loaded model.
        processor: Its processor.
        items: Items with answers, without those that the policy was searched on
            (`Run.unseen` leaves them out).
        policy: The policy, or a `PolicySet`.
        original: Answers of the original to these items, `scores.original` of an earlier call;
            None: generate them.
        answer_tokens: Maximum number of tokens per answer; None: by the accepted answers.
        progress: Show progress.

    Returns:
        The answers of both, `relative` (Rel. Avg.), `changed` (number of changed answers), `worse`
        (share of new answers that become worse at most, with 95 % confidence), `flops` (of the
        prefill over the original's) and `cut` (a sentence if answers were cut).

    Raises:
        DataError: An item has no answer, or exceeds the model's positions.
        PolicyError: The policy does not fit the model.
    """
    for each in members(policy):
        check_fits(each, model.config)
    shown = Progress(PlainConsole(stderr=True) if progress else None, 2 if original is None else 1)
    samples = encode(_listed(items), processor, model.config, say=shown.say)
    check_answer_positions(samples, processor, model.config, answer_tokens)
    return answer_both(
        model,
        processor,
        samples,
        policy,
        shown,
        original=original,
        answer_tokens=answer_tokens,
    )


@naming_parts()
def cost_share(
    model: Any, processor: Any, items: Sequence[Item], policy: Policy, *, cost: str = "flops"
) -> float:
    """Return the cost of a policy on items as a share of the original's.

    Args:
        model: A loaded model, for the dimensions of its decoder.
        processor: Its processor.
        items: Items to count.
        policy: The policy.
        cost: flops, prefill (with the vision tower), kv, or another package's cost.
    """
    shape = Shape.from_config(model.config)
    samples = encode(_listed(items), processor, model.config)
    sizes = [each.size for each in encode_for(policy, samples, processor, model.config)]
    counted = make_cost(cost, shape)
    stock = total_cost(counted, identity(shape.layers), at_full_size(sizes))
    return total_cost(counted, policy, sizes) / stock


@naming_parts()
def measure_kl(
    model: Any,
    processor: Any,
    items: Sequence[Item],
    policies: Sequence[Policy],
    *,
    positions: int = 1,
    memory: int | None = None,
    store: str | Path | None = None,
) -> NDArray[np.float64]:
    """Measure the KL divergence of policies from the original, all in shared passes.

    A policy with an image setting reads images with it, and the original at full size.

    Args:
        model: A loaded model.
        processor: Its processor.
        items: S items.
        policies: P policies; computations that they share are done once.
        positions: Number of answer tokens to compare.
        memory: Bytes for the states of one pass; None: depends on the device.
        store: File that keeps the measurements for later calls with the same model, processor and
            positions; None: they are not kept.

    Returns:
        KL divergences in nats, float64[P, S].

    Raises:
        DataError: An item exceeds the model's positions.
        ModelError: A logit is not finite; names the policy and the item.
    """
    samples = encode(_listed(items), processor, model.config)
    check_positions(samples, model.config, positions, "positions")
    kept = nullcontext(str(store)) if store else TemporaryDirectory(prefix="opsearch-")
    with kept as location:
        path = Path(location) if store else Path(location) / "measurements.db"
        shape, spec = Shape.from_config(model.config), _loaded_as(model)
        facts = measurement_facts(model, processor, spec, shape, positions) if store else {}
        with Store(path, facts) as opened:
            engine = Engine(model, opened, positions, memory_for(model, memory))
            found = np.empty((len(policies), len(samples)))
            for images in dict.fromkeys(policy.images for policy in policies):
                rows = [row for row, policy in enumerate(policies) if policy.images == images]
                some = [policies[row] for row in rows]
                read = encode_for(some[0], samples, processor, model.config)
                found[rows] = engine.measure(some, read)
            return found
