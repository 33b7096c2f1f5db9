"""The ranker of a run and its devices are checked before any weights are loaded."""

from importlib.util import find_spec
from io import StringIO

import pytest
from rich.console import Console

from opsearch.errors import InfeasibleBudgetError, ModelError, PolicyError
from opsearch.models.loading import check_device, load_config
from opsearch.models.spec import ModelSpec
from opsearch.policy.ranker import RankerSpec
from opsearch.progress import Progress
from opsearch.runs.config import RunConfig
from opsearch.runs.prepare import check_ranker, prepare, settle
from tests.support.families import built
from tests.support.messages import naming


def ranker_of(config):
    return settle(config).settings.space_settings.ranker


def test_a_ranker_may_have_parameters():
    given = RunConfig(ranker="vispruner(important=0.3)")
    assert ranker_of(given) == RankerSpec("vispruner", (("important", 0.3),))
    assert ranker_of(RunConfig()) == RankerSpec("cls")
    with pytest.raises(PolicyError, match=naming("important=3", 0, 1)):
        settle(RunConfig(ranker="vispruner(important=3)"))


def test_question_embeddings_stand_in_for_clip_on_the_embedded_model_only():
    check_ranker(RankerSpec("cdpruner"), load_config("demo"))
    assert ranker_of(RunConfig(ranker="cdpruner")) == RankerSpec("cdpruner")
    with pytest.raises(ModelError, match=naming("cdpruner(clip=FOLDER)", "--ranker", "cls")):
        check_ranker(RankerSpec("cdpruner"), built("llava", 5).config)


@pytest.mark.parametrize("name", ["qwen2_5_vl", "llava_onevision"])
def test_a_ranker_that_the_model_cannot_serve_is_refused(name):
    with pytest.raises(ModelError, match=naming("--ranker", "divprune, evs, mmtok")):
        check_ranker(RankerSpec("vispruner"), built(name, 5).config)


def test_a_budget_below_tower_and_text_is_refused_before_weights_are_loaded(monkeypatch):
    monkeypatch.setattr(ModelSpec, "load", lambda spec: pytest.fail("loaded weights"))
    few = RunConfig(space="dop", samples=2, heldout=0, budget=("10%prefill",))
    with pytest.raises(InfeasibleBudgetError, match="text tokens and vision tower"):
        prepare(settle(few), Progress(Console(file=StringIO()), 1))
    above = few.model_copy(update={"budget": ("40%prefill",)})
    (limit,) = prepare(settle(above), Progress(Console(file=StringIO()), 1)).constraints
    assert limit.floor < limit.limit < limit.stock


def test_time_is_of_one_device():
    timed = RunConfig(device="auto", budget=("120ms",))
    with pytest.raises(ModelError, match=naming("--device auto")):
        settle(timed)


@pytest.mark.skipif(find_spec("accelerate") is not None, reason="accelerate is installed")
def test_several_devices_need_accelerate():
    with pytest.raises(ModelError, match=naming("pip install accelerate")):
        check_device("auto", "float32")
