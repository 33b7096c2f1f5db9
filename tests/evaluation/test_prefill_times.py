"""Prefills of compared methods: each beside the original's, a reducer's on its smaller prompt."""

from opsearch.evaluation.prefill_file import prefill_time
from opsearch.evaluation.prefill_times import time_prefills
from opsearch.evaluation.reducers import Reduction
from opsearch.evaluation.reducers.pool import Pool
from opsearch.policy import builders
from opsearch.policy.ranker import RankerSpec
from opsearch.timing import generation
from opsearch.timing.generation import Pass
from tests.measure.families import sample
from tests.support import tiny

POLICY = builders.tokens(5, "1/3", RankerSpec("cls"))
REDUCTION = Reduction("pool", 4, (4,))


def test_a_reducer_is_timed_on_the_prompt_that_it_makes(tmp_path, monkeypatch):
    model, prompt, path = tiny.llava(), sample([3, 4]), tmp_path / "prefill.json"
    pool, seen = Pool(model.config, None), []

    def note(model, inputs, new_tokens):
        length = inputs["input_ids"].shape[1]
        pooled = bool(model.model.multi_modal_projector._forward_hooks)
        seen.append((length, pooled))
        return Pass(1.0, None, 0.0, length / 1000, None, None, None)

    monkeypatch.setattr(generation, "timed", note)
    methods = [POLICY], [(pool, REDUCTION)], [prompt]
    given = {"machine": "here", "path": path, "progress": lambda done, total: None}
    time_prefills(model, *methods, **given)
    whole, small = 7 + tiny.PATCHES, 7 + 4
    assert set(seen) == {(whole, False), (small, True)}
    assert prefill_time(REDUCTION, path).policy == small
    assert prefill_time(REDUCTION, path).original == prefill_time(POLICY, path).policy == whole
    count = len(seen)
    time_prefills(model, *methods, **given)  # all of it is known
    assert len(seen) == count
    deeper = tiny.llava(6)
    time_prefills(deeper, [], methods[1], methods[2], **given)
    assert len(seen) > count
    assert prefill_time(POLICY, path) is None
