"""The ranker of a run and its devices are checked before any weights are loaded."""

from importlib.util import find_spec

import pytest
from rich.console import Console

from opsearch.errors import ModelError, PolicyError
from opsearch.models.loading import check_device, load_config
from opsearch.policy.ranker import RankerSpec
from opsearch.progress import Progress
from opsearch.runs.config import RunConfig
from opsearch.runs.prepare import prepare, run_ranker
from tests.support.families import built
from tests.support.messages import naming


def test_a_ranker_may_have_parameters():
    config = load_config("demo")
    given = RunConfig(ranker="vispruner(important=0.3)")
    assert run_ranker(given, config) == RankerSpec("vispruner", (("important", 0.3),))
    assert run_ranker(RunConfig(), config) == RankerSpec("cls")
    with pytest.raises(PolicyError, match=naming("important=3", 0, 1)):
        run_ranker(RunConfig(ranker="vispruner(important=3)"), config)


def test_question_embeddings_stand_in_for_clip_on_the_embedded_model_only():
    config = load_config("demo")
    assert run_ranker(RunConfig(ranker="cdpruner"), config) == RankerSpec("cdpruner")
    with pytest.raises(ModelError, match=naming("cdpruner(clip=FOLDER)", "--ranker", "cls")):
        run_ranker(RunConfig(ranker="cdpruner"), built("llava", 5).config)


@pytest.mark.parametrize("name", ["qwen2_5_vl", "llava_onevision"])
def test_a_ranker_that_the_model_cannot_serve_is_refused(name):
    with pytest.raises(ModelError, match=naming("--ranker", "divprune, random, uniform")):
        run_ranker(RunConfig(ranker="vispruner"), built(name, 5).config)


def test_time_is_of_one_device():
    timed = RunConfig(device="auto", budget=("120ms",))
    with pytest.raises(ModelError, match=naming("--device auto")):
        prepare(timed, Progress(Console(quiet=True), 1))


@pytest.mark.skipif(find_spec("accelerate") is not None, reason="accelerate is installed")
def test_several_devices_need_accelerate():
    with pytest.raises(ModelError, match=naming("pip install accelerate")):
        check_device("auto", "float32")
