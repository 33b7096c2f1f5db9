"""The ranker of a run is known, with its parameters, before any weights are loaded."""

import pytest

from opsearch.config import RunConfig
from opsearch.errors import ModelError, PolicyError
from opsearch.policy import RankerSpec
from opsearch.prepare import run_ranker
from opsearch.runtime.load import load_config
from tests.families import built


def test_a_ranker_may_have_parameters():
    config = load_config("demo")
    given = RunConfig(ranker="vispruner(important=0.3)")
    assert run_ranker(given, config) == RankerSpec("vispruner", (("important", 0.3),))
    assert run_ranker(RunConfig(), config) == RankerSpec("cls")
    with pytest.raises(PolicyError, match="important=3 is no share between 0 and 1"):
        run_ranker(RunConfig(ranker="vispruner(important=3)"), config)


def test_question_embeddings_stand_in_for_clip_on_the_embedded_model_only():
    config = load_config("demo")
    assert run_ranker(RunConfig(ranker="cdpruner"), config) == RankerSpec("cdpruner")
    with pytest.raises(ModelError, match=r"give clip=FOLDER; choose another --ranker, e\.g\. cls"):
        run_ranker(RunConfig(ranker="cdpruner"), built("llava", 5).config)


@pytest.mark.parametrize("name", ["qwen2_5_vl", "llava_onevision"])
def test_a_ranker_that_the_model_cannot_serve_is_refused(name):
    with pytest.raises(ModelError, match=r"--ranker, e\.g\. divprune, random, uniform"):
        run_ranker(RunConfig(ranker="vispruner"), built(name, 5).config)
