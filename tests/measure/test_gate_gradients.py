"""Gradients of gates equal finite differences of a slow gated model, in several families."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from opsearch.data.item import Item
from opsearch.errors import ModelError, PolicyError
from opsearch.measure.gates import gradients
from opsearch.measure.gates.backward import Gated
from opsearch.measure.gates.gradients import closed, gate_gradients, token_gradients
from opsearch.measure.storage.store import Store
from opsearch.measure.sweep.original import make_reference
from opsearch.models.decoder import Decoder
from opsearch.models.encoding import Sample
from opsearch.models.supported import check_supported
from opsearch.policy.builders import identity, stages
from opsearch.policy.policy import Policy
from opsearch.policy.ranker import RankerSpec
from tests.measure import families
from tests.models.judge import samples as judged
from tests.support import tiny
from tests.support.families import FAMILIES, built
from tests.support.families.prompt import prompts
from tests.support.messages import naming
from tests.support.reference import rotated

LAYERS = 3
GATE = 0.3
STEP = 0.01


def literal(model, x, positions, gates):
    """Return the last row's log-probabilities of the decoder with gates [L, 3, S] on its tokens."""
    text = model.model.language_model
    hidden = torch.ones(len(x), len(x), dtype=torch.bool).triu(1)
    for number, (layer, own) in enumerate(zip(text.layers, gates, strict=True)):
        g_q, g_kv, g_mlp = own
        attn, h = layer.self_attn, layer.input_layernorm(x)
        q, k, v = (
            projection(h).view(len(x), -1, attn.head_dim).transpose(0, 1)
            for projection in (attn.q_proj, attn.k_proj, attn.v_proj)
        )
        q, k = (rotated(text, number, heads, positions) for heads in (q, k))
        k, v = (each.repeat_interleave(len(q) // len(each), 0) for each in (k, v))
        scores = (q @ k.transpose(1, 2)) / attn.head_dim**0.5
        weights = torch.softmax(scores.masked_fill(hidden, -torch.inf), -1) * g_kv
        weights = weights / weights.sum(-1, keepdim=True)
        update = attn.o_proj((weights @ v).transpose(0, 1).reshape(len(x), -1))
        x = x + g_q[:, None] * update
        x = x + g_mlp[:, None] * layer.mlp(layer.post_attention_layernorm(x))
    return functional.linear(text.norm(x)[-1], model.lm_head.weight).log_softmax(-1)


def one(name, attention="sdpa"):
    """Return a family's tiny model, a sample of it, and the sample as the reference takes it."""
    model = built(name, LAYERS, attention)
    inputs = prompts(FAMILIES[name], [[3, 4]], 0)
    with torch.no_grad():
        (row,) = judged(model, inputs)
    text = int((~row.visual).sum())
    return model, Sample(Item("a", "", (), ()), "a", inputs, row.n_visual, text), row


def taken(model, sample, gate=GATE):
    family = check_supported(model)
    reference = make_reference(model, family, [sample], (), 1)
    return token_gradients(Decoder.of(model, family), reference, gate)


@pytest.mark.parametrize("name", ["llava", "llava_onevision", "qwen2_5_vl"])
def test_gradients_are_finite_differences(name):
    model, sample, row = one(name)
    found = taken(model, sample)[0]
    assert (found[..., ~row.visual] != 0).any(), "text has gates that are never closed"
    gates = torch.ones(LAYERS, 3, len(row.visual)).masked_fill(row.visual, GATE)
    random = np.random.default_rng(0)
    with torch.no_grad():
        original = literal(model, row.embeds, row.positions, torch.ones_like(gates))
        for _ in range(4):
            # Along a direction over many tokens, as one token's effect drowns in rounding.
            sign = torch.from_numpy(random.choice([-1.0, 1.0], gates.shape)).float()
            sign = torch.where(row.visual, torch.sign(found) * (sign + 2), 0.0)
            above, below = (
                (original.exp() * (original - literal(model, row.embeds, row.positions, g))).sum()
                for g in (gates + STEP * sign / 3, gates - STEP * sign / 3)
            )
            wanted = float(above - below) / (2 * STEP / 3)
            assert float((found * sign).sum()) == pytest.approx(wanted, rel=0.02, abs=1e-3)
            assert abs(wanted) > 1e-2


@pytest.mark.parametrize("decoder", families.DECODERS)
def test_open_gates_are_the_original_and_nearly_closed_ones_the_pruned_model(decoder):
    for attention in ("sdpa", "eager"):
        model, sample = families.model(decoder, attention), families.sample([2, 3, 4])
        family = check_supported(model)
        text = Decoder.of(model, family)
        reference = make_reference(model, family, [sample], (), 1)
        visual = reference.prompt.visual

        def logits(gate, text=text, reference=reference, visual=visual):
            shape = (1, families.LAYERS, 3, visual.shape[1])
            gates = torch.ones(shape).masked_fill(visual[:, None, None], gate)
            gated = Gated.forward(text, reference, gates)
            with torch.no_grad():
                return text.logits(gated.states[-1][:, -1:])

        torch.testing.assert_close(logits(1.0), reference.logits, rtol=1e-4, atol=1e-4)
        with torch.no_grad(), families.of_counts([(0, 0, 0)] * families.LAYERS).apply(model):
            pruned = model(**sample.inputs, logits_to_keep=1).logits
        torch.testing.assert_close(logits(1e-9), pruned, rtol=1e-4, atol=1e-4)
        assert (pruned - reference.logits).abs().max() > 0.1


def test_both_attentions_have_equal_gradients():
    sample = families.sample([2, 3, 4])
    sdpa, eager = (taken(families.model("llama", name), sample) for name in ("sdpa", "eager"))
    assert sdpa.abs().max() > 1e-3
    torch.testing.assert_close(sdpa, eager, rtol=1e-3, atol=1e-6)


def test_at_the_original_the_gradient_vanishes():
    near, far = (taken(families.model(), families.sample([3, 4]), gate) for gate in (1.0, 0.5))
    assert near.abs().max() < 1e-4 < far.abs().max()


def alone(layer, module, count, size):
    """Return a policy that prunes one operation to a count."""
    counts = [[size] * 3 for _ in range(families.LAYERS)]
    counts[layer][module] = count
    return families.of_counts(counts)


def test_values_sum_what_a_policy_closes(tmp_path):
    model, drawn = families.model(), [families.sample([3, 4], seed) for seed in range(3)]
    size = drawn[0].n_visual
    single = [
        alone(layer, module, count, size)
        for layer in range(families.LAYERS)
        for module in range(3)
        for count in (0, size // 2, size)
    ]
    with Store(tmp_path / "m.db", {}) as store:
        values = gate_gradients(model, store, [identity(families.LAYERS), *single], drawn)
        none, few, every = values[1:].reshape(-1, 3, len(drawn)).transpose(1, 0, 2)
        assert (values[0] == 0).all()
        assert (every == 0).all()
        assert (none >= few).all()
        assert (few >= 0).all()
        assert (none[1] > few[1]).all(), "keys and values of layer 0 are read"
        # Nobody reads queries and MLP of the last layer.
        assert (none[[-3, -1]] == 0).all()
        # Two operations together are their sum where both are read.
        both = [[size] * 3 for _ in range(families.LAYERS)]
        both[0][0], both[1][1] = 0, 0
        (together,) = gate_gradients(model, store, [families.of_counts(both)], drawn)
    np.testing.assert_allclose(together, none[0] + none[4], rtol=1e-9)


def test_dead_updates_are_not_counted():
    size = 10
    counts = [(Fraction(1),) * 3, (Fraction(1),) * 3, (Fraction(1), Fraction(1, 5), Fraction(1))]
    first, end = closed(Policy(tuple(counts)), size)
    # Layer 1 is read by two tokens in layer 2, but for layer 0 all tokens are read in layer 1.
    assert end.tolist() == [[10, 10, 10], [2, 10, 2], [0, 10, 0]]
    assert first.tolist() == [[10, 10, 10], [2, 10, 2], [0, 2, 0]]


def test_each_sample_is_run_once(tmp_path, monkeypatch):
    model, drawn = families.model(), [families.sample([3, 4], seed) for seed in range(4)]
    policies = [alone(0, 1, 0, drawn[0].n_visual), alone(1, 2, 2, drawn[0].n_visual)]
    run, whole = [], gradients._measured
    monkeypatch.setattr(
        gradients, "_measured", lambda m, s, *rest: run.append(len(s)) or whole(m, s, *rest)
    )
    with Store(tmp_path / "m.db", {}) as store:
        first = gate_gradients(model, store, policies, drawn[:2])
    seen = []
    with Store(tmp_path / "m.db", {}) as store:
        both = gate_gradients(model, store, policies, drawn, 1, lambda *tick: seen.append(tick))
    assert run == [2, 2]
    assert seen == [(2, 2)]
    assert np.array_equal(both[:, :2], first)
    assert len(set(both[0])) == 4


def test_answers_of_several_tokens_have_gradients_of_their_own(tmp_path):
    model, sample = families.model(), families.sample([3, 4])
    policy = alone(0, 1, 0, sample.n_visual)
    values = []
    for positions in (1, 3):
        with Store(tmp_path / f"{positions}.db", {}) as store:
            values.append(gate_gradients(model, store, [policy], [sample], positions).item())
    assert min(values) > 0
    assert values[0] != values[1]


def test_quantised_weights_are_refused(tmp_path):
    model, sample = tiny.llava(LAYERS), families.sample([3, 4])
    down = model.model.language_model.layers[1].mlp.down_proj
    down.weight = nn.Parameter(down.weight.round().to(torch.int8), requires_grad=False)
    policy = Policy(((Fraction(0),) * 3,) * LAYERS)
    with (
        Store(tmp_path / "m.db", {}) as store,
        pytest.raises(ModelError, match=naming("quantised", "--objective additive")),
    ):
        gate_gradients(model, store, [policy], [sample])


def test_rankers_inside_the_decoder_are_refused():
    inside = ((2, RankerSpec("fastv")),)
    policy = replace(stages(4, {0: 1, 2: Fraction(1, 2)}, RankerSpec("cls")), rankers=inside)
    with pytest.raises(PolicyError, match=naming("inside the decoder", "joint")):
        closed(policy, 10)
    closed(replace(policy, rankers=()), 10)
