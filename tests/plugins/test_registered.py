"""Parts that a notebook registers, the sentences they fail with, and documented contracts."""

import functools
import inspect
import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

import opsearch
from opsearch import Baseline, OpsearchError, RankerSpec, builders, registry
from opsearch.commands.cli import call
from opsearch.errors import UnknownNameError
from opsearch.measure.planning.chunks import MeasurementPlan
from opsearch.measure.planning.requests import KeyedPolicy
from opsearch.measure.workers import ray_workers
from opsearch.models.encoding import encode
from opsearch.problem import CostLabel, ListedSpace, ranking_from_scores
from opsearch.registry.kinds import KINDS, at
from tests.support.messages import naming, refuses

ROOT = Path(__file__).parents[2]
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()


@pytest.fixture(autouse=True)
def forgotten():
    """Forget what a test registered."""
    yield
    registry._registered.clear()


@pytest.fixture(scope="module")
def documented():
    """The minimal parts of the documentation, exactly as written."""
    parts = {"__name__": "notebook"}
    for block in re.findall(r"```python\n(.*?)```", ARCHITECTURE, re.DOTALL):
        exec(block, parts)
    return parts


@pytest.fixture(scope="module")
def demo():
    return (*opsearch.load_model("demo"), opsearch.load_items("demo", samples=2))


def search(demo, **given):
    return opsearch.search(*demo, progress=False, **{"space": "tokens", "n_v": (".5",), **given})


# Registered by name


@pytest.mark.parametrize("space", ["tokens", "operations", "stages"])
def test_a_cost_written_as_documented_runs_in_every_kind_of_space(documented, demo, space):
    opsearch.register("costs", "rows", documented["KeptRows"])
    further = {"objective": "joint", "stages": 1} if space == "stages" else {}
    result = search(demo, space=space, budget="60%rows", **further)
    rows = result.policy.live(100).sum()
    assert rows <= 0.6 * 3 * 12 * 100
    assert re.search(r"\b\d+(\.\d+)?%.*rows", result.costs["rows"])
    assert opsearch.cost_share(*demo, result.policy, cost="rows") <= 0.6


def test_all_documented_parts_are_used_by_name(documented, demo):
    opsearch.register("solvers", "first", documented["First"])
    opsearch.register("objectives", "worst", documented["Worst"])
    opsearch.register("spaces", "halves", documented["Halves"])
    opsearch.register("rankers", "longest", documented["Longest"])
    result = search(
        demo, budget="60%", space="halves", objective="worst", solver="first", ranker="longest",
        n_v="16",
    )  # fmt: skip
    assert result.config.space == "halves"
    assert dict(result.policy.rankers)[0].name == "longest"
    again = opsearch.solve(result.folder, budget="60%")
    assert again.policy == result.policy


def test_a_registered_baseline_is_compared(documented, demo):
    opsearch.register("baselines", "second-half", documented["SECOND_HALF"])
    assert "second-half" in search(demo, budget="80%").comparison.columns


def test_names_of_parts_are_listed(documented):
    opsearch.register("costs", "rows", documented["KeptRows"])
    assert "rows" in registry.names("costs")
    with refuses(UnknownNameError, "'row'", "'rows'"):
        opsearch.Budget.parse("5%row")


# What is refused


def test_a_taken_name_is_refused_and_stays(documented):
    for kind, name in (("costs", "flops"), ("rankers", "fastv"), ("decoder_rankers", "cls")):
        with refuses(OpsearchError, repr(name), "another"):
            opsearch.register(kind, name, documented["KeptRows"])
    opsearch.register("costs", "rows", documented["KeptRows"])
    with refuses(OpsearchError, "'rows'", "restart"):
        opsearch.register("costs", "rows", type("Other", (documented["KeptRows"],), {}))
    assert registry.lookup("costs", "rows") is documented["KeptRows"]


@pytest.mark.parametrize("name", ["", "a b", "a(b=1)", "x\x1b[2J", None])
def test_a_name_that_could_not_be_typed_is_refused(documented, name):
    with refuses(OpsearchError, repr(name), "letters"):
        opsearch.register("costs", name, documented["KeptRows"])


def test_an_unknown_kind_names_the_nearest(documented):
    with refuses(UnknownNameError, "'cost'", "'costs'"):
        opsearch.register("cost", "rows", documented["KeptRows"])


def test_a_part_that_lacks_members_or_has_another_name_is_refused(documented):
    with refuses(OpsearchError, "'bare'", "of", "stock"):
        opsearch.register("costs", "bare", type("Bare", (), {"name": "bare"}))
    with refuses(OpsearchError, "'columns'", "'rows'"):
        opsearch.register("costs", "columns", documented["KeptRows"])


@pytest.mark.parametrize(
    ("kind", "name", "method", "own"),
    [
        ("costs", "rows", "of", lambda self, counts, n_visual: 0),
        ("solvers", "first", "solve", lambda self, problem: None),
        ("objectives", "worst", "make", lambda self, space, measure: None),
        ("rankers", "longest", "rank", lambda self, prompt: None),
    ],
)
def test_a_method_with_other_parameters_is_refused(documented, kind, name, method, own):
    classes = {"rows": "KeptRows", "first": "First", "worst": "Worst", "longest": "Longest"}
    part = type("Part", (documented[classes[name]],), {method: own, "name": name})
    called = inspect.signature(getattr(at(KINDS[kind].contract), method))
    with refuses(OpsearchError, repr(name), f"{method}(", list(called.parameters)[-1]):
        opsearch.register(kind, name, part)


@pytest.mark.parametrize("own", [3, property(lambda self: 3)], ids=["number", "property"])
def test_a_member_that_is_no_method_is_refused(documented, own):
    part = type("Part", (documented["KeptRows"],), {"stock": own, "name": "rows"})
    with refuses(OpsearchError, "'rows'", "stock(n_visual, n_other)"):
        opsearch.register("costs", "rows", part)


def test_a_decorated_method_is_taken(documented, demo):
    stock = functools.lru_cache(documented["KeptRows"].stock)
    part = type("Part", (documented["KeptRows"],), {"stock": stock, "name": "cached"})
    opsearch.register("costs", "cached", part)
    assert registry.lookup("costs", "cached") is part


def test_a_factory_that_takes_no_settings_is_named(documented, demo):
    part = type(
        "Part", (documented["KeptRows"],), {"from_settings": classmethod(lambda cls: cls(1))}
    )
    opsearch.register("costs", "rows", part)
    with refuses(OpsearchError, "cost 'rows'", "settings"):
        search(demo, budget="60%rows")


def test_workers_refuse_rankers_of_this_process(documented):
    opsearch.register("rankers", "longest", documented["Longest"])
    policy = builders.tokens(12, "1/2", RankerSpec("longest"))

    @dataclass
    class Chunk:
        policies: tuple

    plan = MeasurementPlan((Chunk((KeyedPolicy("key", policy),)),), None)
    with refuses(OpsearchError, "'longest'", "workers", "entry point"):
        ray_workers.MeasureWorkers.share(None, plan)


# Failures


class Failing:
    """A ranker that raises."""

    nested, needs = True, frozenset()

    def rank(self, prompt, n):
        raise ValueError("no ranks today")


class FailingCost:
    name, unit, timed = "failing", "things", False

    label = CostLabel("things", "things, %")

    from_settings = classmethod(lambda cls, settings: cls())

    def of(self, counts, n_visual, n_other, candidates=None):
        return {}["of"]

    def stock(self, n_visual, n_other):
        return 100


@dataclass(frozen=True)
class FailingSpace(ListedSpace):
    name: ClassVar[str] = "failing"
    options: ClassVar[frozenset[str]] = frozenset()
    ranks_inside: ClassVar[bool] = False
    num_layers: int = 12
    parameters: ClassVar = ()

    @classmethod
    def from_settings(cls, settings):
        return cls()

    @property
    def points(self):
        raise ZeroDivisionError("no points")

    def decode(self, point):
        raise AssertionError


def failing_makers(layers, share, ranker):
    raise RuntimeError("no policy")


FAILURES = [
    ("rankers", Failing, {"ranker": "failing", "budget": "80%"}, ("ValueError", "no ranks today")),
    ("costs", FailingCost, {"budget": "50%failing"}, ("KeyError", "'of'")),
    ("spaces", FailingSpace, {"space": "failing"}, ("ZeroDivisionError", "no points")),
    (
        "baselines",
        Baseline("Fails.", (failing_makers,)),
        {"budget": "80%"},
        ("RuntimeError", "no policy"),
    ),
]


@pytest.mark.parametrize(("kind", "part", "given", "words"), FAILURES, ids=[f[0] for f in FAILURES])
def test_an_exception_of_a_part_names_it_and_keeps_its_cause(demo, kind, part, given, words):
    opsearch.register(kind, "failing", part)
    with refuses(OpsearchError, KINDS[kind].one, "'failing'", "authors", *words) as raised:
        search(demo, **given)
    assert type(raised.value.__cause__).__name__ == words[0]


def test_a_ranker_that_fails_in_a_block_of_the_user_is_named(demo):
    model, processor, items = demo
    opsearch.register("rankers", "failing", Failing)
    policy = builders.tokens(12, "1/2", RankerSpec("failing"))
    with refuses(OpsearchError, "'failing'", "no ranks today"):
        opsearch.evaluate(model, processor, items, policy, progress=False)


def test_of_two_parts_the_one_that_fails_is_named(demo, documented):
    opsearch.register("costs", "failing", FailingCost)
    opsearch.register("rankers", "failing", Failing)
    with refuses(OpsearchError, "ranker 'failing'"):
        search(demo, ranker="failing", budget="80%")


class Full(Failing):
    def rank(self, prompt, n):
        raise MemoryError("full")


def test_exceptions_of_our_own_and_of_memory_pass(demo):
    opsearch.register("rankers", "full", Full)
    with pytest.raises(AttributeError):
        opsearch.search(object(), None, demo[2])
    with pytest.raises(MemoryError):
        search(demo, ranker="full", budget="80%")


def test_code_of_the_same_notebook_that_is_no_part_is_not_blamed(demo):
    model = demo[0]
    opsearch.register("rankers", "failing", Failing)

    def broken(*args, **kwargs):
        raise ValueError("the user's own hook")

    handle = model.get_submodule("model.language_model").register_forward_pre_hook(broken)
    with pytest.raises(ValueError, match="own hook"):
        search(demo, budget="80%", ranker="random")
    handle.remove()


def test_the_command_line_shows_the_traceback_with_debug(tmp_path, capsys):
    opsearch.register("rankers", "failing", Failing)
    few = ["run", "--samples=1", "--heldout=0", "--space=tokens", "--n-v=.5", "--ranker=failing"]
    few += ["--budget=80%"]
    few += ["--out", str(tmp_path / "run")]
    assert call(few) == 1
    assert re.search(
        naming("ranker 'failing'", "no ranks today", "--debug"),
        " ".join(capsys.readouterr().err.split()),
    )
    with refuses(OpsearchError, "'failing'") as raised:
        call([*few, "--debug"])
    assert isinstance(raised.value.__cause__, ValueError)


# The documented contracts


@pytest.mark.parametrize("kind", [kind for kind in KINDS if KINDS[kind].contract])
def test_documented_signatures_are_those_of_the_contract(kind):
    row = next(
        line for line in ARCHITECTURE.splitlines() if f"`opsearch.{kind}`" in line and "|" in line
    )
    contract = at(KINDS[kind].contract)
    for name, method in vars(contract).items():
        if inspect.isfunction(method) and not name.startswith("_"):
            parameters = list(inspect.signature(method).parameters.values())[1:]
            shown = inspect.Signature(
                [each.replace(annotation=inspect.Parameter.empty) for each in parameters]
            )
            assert f"`{name}{shown}`" in row


def test_a_ranker_gets_the_prompt_that_is_documented(demo):
    """Each row of the table is there with its shape; tokens of answers are not in it."""
    model, processor, items = demo
    page = (ROOT / "docs" / "rankers.md").read_text()
    table = page.partition("### What a ranker gets")[2].partition("`needs` names")[0]
    documented_names = re.findall(r"^\| `(\w+)", table, re.MULTILINE)
    seen = []

    class Seeing:
        nested, needs = True, frozenset({"embeddings", "question_embeddings", "cls_attention"})

        def rank(self, prompt, n):
            seen.append((prompt, tuple(n)))
            scores = prompt.captured["cls_attention"]
            return ranking_from_scores(prompt.scatter(scores), prompt.visual)

    opsearch.register("rankers", "seeing", Seeing)
    policy = builders.tokens(12, "1/4", RankerSpec("seeing"))
    opsearch.measure_kl(model, processor, items, [policy], positions=3)
    lengths = {sum(sample.shape) for sample in encode(items, processor, model.config)}
    assert seen
    for prompt, n in seen:
        shape, total = prompt.visual.shape, sum(prompt.n_visual)
        assert all(hasattr(prompt, name) for name in documented_names)
        assert {int(row.sum()) for row in prompt.real} <= lengths
        assert prompt.visual.sum(1).tolist() == list(prompt.n_visual)
        assert prompt.real.shape == prompt.question().shape == shape
        assert prompt.embeds.shape[:2] == shape
        assert prompt.visual_embeds().shape == (total, prompt.embeds.shape[2])
        assert prompt.captured["cls_attention"].shape == (total,)
        assert prompt.scatter(prompt.captured["cls_attention"]).shape == shape
        assert len(n) == shape[0]
