"""A call of the model runs wholly inside a `with` block, or raises PolicyError in both threads."""

import copy
import pickle
import threading
from contextlib import ExitStack, nullcontext
from functools import partial

import pytest
import torch
from torch import nn
from transformers import LogitsProcessor

from opsearch.errors import PolicyError
from opsearch.models.pruned.block import Block
from opsearch.policy import builders
from opsearch.policy.ranker import RankerSpec
from tests.models.judge import TOLERANCE
from tests.models.policies import LAYERS
from tests.models.test_apply import traces
from tests.models.test_generation_modes import Heard
from tests.support import tiny
from tests.support.messages import refuses

HALF = builders.dop(LAYERS, 3, 2, "1/2", RankerSpec("random"))
WAIT = 30  # seconds until a deadlock fails


@pytest.fixture
def model():
    made = tiny.llava(LAYERS)
    made.generation_config.eos_token_id = 10**6
    with torch.no_grad():
        made(**tiny.prompts([[3, 4]]))  # the vision tower installs its own hooks on first use
    return made


@pytest.fixture
def inputs():
    return tiny.prompts([[3, 4]])


class Thread(threading.Thread):
    """A thread that keeps the result or the exception of a call."""

    def __init__(self, call, begins=None):
        super().__init__()
        self.call, self.begins, self.found = call, begins, None
        self.start()

    def run(self):
        if self.begins is not None:
            self.begins.wait(WAIT)
        try:
            with torch.no_grad():
                self.found = self.call()
        except Exception as error:
            self.found = error

    def result(self):
        self.join(WAIT)
        assert not self.is_alive()
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


class Meeting:
    """A place where a thread halts until the test lets it go on."""

    def __init__(self):
        self.reached, self.leave = threading.Event(), threading.Event()

    def halt(self, *args):
        self.reached.set()
        assert self.leave.wait(WAIT)


class HaltAt(LogitsProcessor):
    """Halt after the forward of one step of a generation."""

    def __init__(self, step, meeting):
        self.step, self.meeting = step, meeting

    def __call__(self, input_ids, scores):
        self.step -= 1
        if self.step == 0:
            self.meeting.halt()
        return scores


def generation(model, inputs, **options):
    options = {"max_new_tokens": 5, "do_sample": False, **options}
    return partial(model.generate, **inputs, **options)


@pytest.mark.parametrize("use_cache", [True, False], ids=["cache", "no cache"])
@pytest.mark.parametrize("step", [1, 3])
def test_a_generation_that_outlives_its_block_fails_in_both_threads(model, inputs, step, use_cache):
    """Without a cache its later steps would run the stock model."""
    before, meeting, heard = traces(model), Meeting(), Heard()
    with refuses(PolicyError, "1 other", "join", "`with`"), HALF.apply(model):
        thread = Thread(
            generation(
                model,
                inputs,
                use_cache=use_cache,
                streamer=heard,
                logits_processor=[HaltAt(step, meeting)],
            )
        )
        assert meeting.reached.wait(WAIT)
    meeting.leave.set()
    with refuses(PolicyError, "join the thread"):
        thread.result()
    assert heard.ended, "its reader does not wait for ever"
    assert traces(model) == before


def test_a_generation_that_begins_after_its_block_fails(model, inputs):
    """It was looked up inside the block, as a thread's target is, and came too late."""
    begins, heard = threading.Event(), Heard()
    with HALF.apply(model):
        thread = Thread(generation(model, inputs, streamer=heard), begins)
    begins.set()
    with refuses(PolicyError, "join the thread"):
        thread.result()
    assert heard.ended


def test_a_generation_that_is_joined_inside_its_block_is_pruned(model, inputs):
    with torch.no_grad():
        stock = generation(model, inputs)()
        with HALF.apply(model):
            wanted = generation(model, inputs)()
            assert torch.equal(Thread(generation(model, inputs)).result(), wanted)
    assert not torch.equal(wanted, stock)


def test_a_generation_from_before_the_block_does_not_prefill_in_it(model, inputs):
    """Halted in the vision tower: before its prefill, in old transformers during it."""
    meeting = Meeting()
    handle = model.model.vision_tower.register_forward_pre_hook(meeting.halt)
    thread = Thread(generation(model, inputs))
    assert meeting.reached.wait(WAIT)
    handle.remove()
    with HALF.apply(model):
        meeting.leave.set()
        with refuses(PolicyError, "`with`"):
            thread.result()


def test_a_generation_that_prefilled_before_the_block_goes_on_unpruned(model, inputs):
    meeting = Meeting()
    with torch.no_grad():
        stock = generation(model, inputs)()
    thread = Thread(generation(model, inputs, logits_processor=[HaltAt(1, meeting)]))
    assert meeting.reached.wait(WAIT)
    with HALF.apply(model):
        meeting.leave.set()
        assert torch.equal(thread.result(), stock)


@pytest.mark.parametrize(
    "place",
    [
        "model",
        "model.vision_tower",
        "model.language_model",
        *(f"model.language_model.layers.{n}" for n in (0, 3)),
        "lm_head",
    ],
)
def test_a_forward_that_outlives_its_block_fails_in_both_threads(model, inputs, place):
    """Its layers before the end would be pruned and those behind it not."""
    meeting = Meeting()
    handle = model.get_submodule(place).register_forward_pre_hook(meeting.halt)
    with refuses(PolicyError, "1 other", "join"), HALF.apply(model):
        thread = Thread(lambda: model(**inputs).logits)
        assert meeting.reached.wait(WAIT)
    meeting.leave.set()
    with refuses(PolicyError, "join the thread"):
        thread.result()
    handle.remove()


def test_a_forward_that_begins_after_its_block_fails(model, inputs):
    """It was called inside the block, and halts in a hook before its forward."""
    meeting = Meeting()
    handle = model.register_forward_pre_hook(meeting.halt)
    with HALF.apply(model):
        thread = Thread(lambda: model(**inputs).logits)
        assert meeting.reached.wait(WAIT)
    meeting.leave.set()
    with refuses(PolicyError, "join the thread"):
        thread.result()
    handle.remove()


def test_a_call_that_begins_while_its_block_ends_is_seen_by_both_threads():
    """It halts between the look at the block and its first step."""
    meeting = Meeting()

    class Halting(Block):
        def check(self):
            super().check()
            meeting.halt()

    def call():
        with block.call():
            return "a mixture"

    block = Halting()
    thread = Thread(call)
    assert meeting.reached.wait(WAIT)
    block.end()
    with refuses(PolicyError, "1 other", "join"):
        block.check_finished()
    meeting.leave.set()
    with refuses(PolicyError, "join the thread"):
        thread.result()


@pytest.mark.parametrize("ranker", ["random", "cls"])
def test_a_prefill_at_any_point_of_the_blocks_ends_is_whole(model, inputs, monkeypatch, ranker):
    """Another thread prefills after each step of entering and of leaving the block."""
    policy = builders.dop(LAYERS, 3, 2, "1/2", RankerSpec(ranker))
    with torch.no_grad():
        stock = model(**inputs).logits
        with policy.apply(model):
            pruned = model(**inputs).logits
    found = []

    def prefill():
        try:
            logits = Thread(lambda: model(**inputs).logits).result()
        except PolicyError:
            found.append("refused")
        else:
            wanted = {"stock": stock, "pruned": pruned}
            found.append(next(name for name, each in wanted.items() if torch.equal(logits, each)))

    class Interrupted(ExitStack):
        def enter_context(self, manager):
            super().callback(prefill)
            entered = super().enter_context(manager)
            prefill()
            return entered

        def callback(self, undo):
            super().callback(prefill)
            super().callback(undo)
            prefill()

    monkeypatch.setattr("opsearch.models.pruned.apply.ExitStack", Interrupted)
    with policy.apply(model):
        steps = len(found)
        assert found[-1] == "pruned"
    assert len(found) == 2 * steps
    assert (found[0], found[-1]) == ("stock", "stock")
    assert not torch.equal(stock, pruned)


def test_an_error_in_the_block_is_not_hidden_by_its_threads(model, inputs):
    meeting = Meeting()
    block = HALF.apply(model)
    block.__enter__()
    thread = Thread(generation(model, inputs, logits_processor=[HaltAt(1, meeting)]))
    assert meeting.reached.wait(WAIT)
    error = ZeroDivisionError()
    assert not block.__exit__(ZeroDivisionError, error, None), "it goes on"
    meeting.leave.set()
    with refuses(PolicyError, "join the thread"):
        thread.result()


# References and copies


@pytest.mark.usefixtures("no_grad")
def test_references_from_before_the_block_are_pruned_or_refused(model, inputs):
    forward, trunk, generate = model.forward, model.model.forward, model.generate
    stock = forward(**inputs).logits
    with HALF.apply(model):
        wanted = model(**inputs).logits
        assert torch.equal(forward(**inputs).logits, wanted)
        assert torch.equal(model.lm_head(model.model.forward(**inputs)[0]), wanted)
        with refuses(PolicyError, "before the `with` block", "model itself"):
            trunk(**inputs)
        with refuses(PolicyError, "before it", "model.generate"):
            generate(**inputs, max_new_tokens=2)
    assert torch.equal(trunk(**inputs)[0], model.model(**inputs)[0])
    assert torch.equal(model(**inputs).logits, stock)


@pytest.mark.parametrize(
    "duplicate",
    [
        copy.copy,
        copy.deepcopy,
        pickle.dumps,
        lambda model: copy.deepcopy(model.model),
        lambda model: nn.DataParallel(model).module._replicate_for_data_parallel(),
    ],
    ids=["copy", "deepcopy", "pickle", "a part", "replicate"],
)
def test_copies_are_refused(model, duplicate):
    """The patched forwards of a copy would run the original."""
    with HALF.apply(model), refuses(PolicyError, "copied", "`with`"):
        duplicate(model)
    copy.copy(model)


@pytest.mark.slow
@torch.no_grad()  # under inference mode torch 2.13 fails to compile numpy's arrays
@pytest.mark.parametrize("ranker", ["random", "cls", "received"])
def test_compiled_models_are_pruned_or_refused(inputs, ranker):
    """A compiled vision tower runs no hooks of its projections, which `cls` reads."""
    model = tiny.llava(LAYERS)
    policy = builders.dop(LAYERS, 3, 2, "1/2", RankerSpec(ranker))
    missed = ranker == "cls"
    with policy.apply(model):
        wanted = model(**inputs).logits
        model.compile(backend="eager")
        with refuses(PolicyError, "cls_attention", "compiled") if missed else nullcontext():
            assert (model(**inputs).logits - wanted).abs().max() <= TOLERANCE
