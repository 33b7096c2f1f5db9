"""A policy outside of a `with` block: it warns where it was meant, and is installed for servers."""

import gc
import threading
import warnings

import pytest
import torch

from opsearch.data.item import Item
from opsearch.errors import DataError, PolicyError
from opsearch.evaluation.answers import answer
from opsearch.models.encoding import Sample
from opsearch.policy import builders
from opsearch.policy.ranker import RankerSpec
from tests.models.policies import LAYERS
from tests.models.test_apply import traces
from tests.models.test_outliving import WAIT, HaltAt, Meeting, Thread, generation
from tests.support import tiny
from tests.support.messages import naming, refuses

pytestmark = pytest.mark.usefixtures("no_grad")
HALF = builders.dop(LAYERS, 3, 2, "1/2", RankerSpec("random"))


@pytest.fixture
def model():
    made = tiny.llava(LAYERS)
    made.generation_config.eos_token_id = 10**6
    made(**tiny.prompts([[3, 4]]))  # the vision tower installs its own hooks on first use
    return made


@pytest.fixture
def inputs():
    return tiny.prompts([[3, 4]])


def logits(model, inputs):
    return model(**inputs).logits


# Without a block


def test_a_policy_that_is_never_entered_warns_at_its_line(model, inputs):
    stock = logits(model, inputs)
    both = naming("`with policy.apply(model):`", "policy.install(model)")
    with pytest.warns(RuntimeWarning, match=both) as said:
        HALF.apply(model)
    assert said[0].filename == __file__
    assert torch.equal(logits(model, inputs), stock)


def test_a_policy_that_is_entered_or_refused_does_not_warn(model):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with HALF.apply(model):
            pass
        with refuses(PolicyError, "layers"), builders.vtw(LAYERS + 1, 1).apply(model):
            pass


def test_an_error_before_the_block_is_not_followed_by_a_warning(model):
    unanswered = Sample(Item("1", "what ?", (), ()), "digest", {}, 16, 2)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with pytest.raises(DataError):
            answer(model, None, [unanswered], HALF)
    assert not said


def test_a_block_can_be_entered_again(model, inputs):
    block, before = HALF.apply(model), traces(model)
    with block:
        first = logits(model, inputs)
        with refuses(PolicyError, "applied", "`with`"), block:
            pass
        assert torch.equal(logits(model, inputs), first), "the outer one goes on"
    assert traces(model) == before
    with block:
        assert torch.equal(logits(model, inputs), first)


# Installed


def test_an_installed_policy_prunes_until_it_is_removed(model, inputs):
    stock, before, own = logits(model, inputs), traces(model), set(vars(model))
    with HALF.apply(model):
        wanted = logits(model, inputs)
    handle = HALF.install(model)
    assert torch.equal(logits(model, inputs), wanted)
    handle.remove()
    assert (traces(model), set(vars(model))) == (before, own)
    assert not torch.equal(wanted, stock)
    assert torch.equal(logits(model, inputs), stock)


def test_removing_twice_is_harmless(model, inputs):
    first = HALF.install(model)
    first.remove()
    second = HALF.install(model)
    pruned = logits(model, inputs)
    first.remove()
    assert torch.equal(logits(model, inputs), pruned), "the other one stays"
    second.remove()


def test_a_second_policy_is_refused_and_the_first_stays(model, inputs):
    handle = HALF.install(model)
    pruned = logits(model, inputs)
    for inner in (builders.vtw(LAYERS, 1), builders.identity(LAYERS)):
        with refuses(PolicyError, "applied", "remove()"):
            inner.install(model)
        with refuses(PolicyError, "applied", "remove()"), inner.apply(model):
            pass
    assert torch.equal(logits(model, inputs), pruned)
    handle.remove()
    with HALF.apply(model), refuses(PolicyError, "applied", "`with`"):
        HALF.install(model)


def test_a_policy_that_does_not_fit_is_refused_at_once(model):
    before = traces(model)
    with refuses(PolicyError, "layers"):
        builders.vtw(LAYERS + 1, 1).install(model)
    assert traces(model) == before


def test_the_policy_stays_without_its_handle(model, inputs):
    stock = logits(model, inputs)
    handle = HALF.install(model)
    pruned = logits(model, inputs)
    del handle
    gc.collect()
    assert torch.equal(logits(model, inputs), pruned)
    assert not torch.equal(pruned, stock)


def test_the_identity_is_installed_and_removed(model, inputs):
    stock, before = logits(model, inputs), traces(model)
    handle = builders.identity(LAYERS).install(model)
    assert torch.equal(logits(model, inputs), stock)
    handle.remove()
    assert traces(model) == before


def test_another_thread_is_pruned_and_may_remove(model, inputs):
    stock = logits(model, inputs)
    handle = HALF.install(model)
    pruned = logits(model, inputs)
    assert torch.equal(Thread(lambda: logits(model, inputs)).result(), pruned)
    threads = [threading.Thread(target=handle.remove) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    assert torch.equal(logits(model, inputs), stock)


def test_a_generation_that_outlives_the_policy_fails_in_both_threads(model, inputs):
    before, meeting = traces(model), Meeting()
    handle = HALF.install(model)
    thread = Thread(generation(model, inputs, logits_processor=[HaltAt(1, meeting)]))
    assert meeting.reached.wait(WAIT)
    with refuses(PolicyError, "1 other", "join", "remove()"):
        handle.remove()
    meeting.leave.set()
    with refuses(PolicyError, "join the thread"):
        thread.result()
    handle.remove()
    assert traces(model) == before
