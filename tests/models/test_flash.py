"""FlashAttention in the layers that it can compute, and the requirements of a run with it."""

from collections import Counter

import pytest
import torch
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention
from transformers.integrations import flash_attention
from transformers.utils import is_flash_attn_2_available

from opsearch.errors import ModelError
from opsearch.models.families import family_for
from opsearch.models.loading import check_attention
from opsearch.models.pruned.cuda_graphs import Graphs
from opsearch.models.supported import check_supported
from opsearch.policy.counts import KV, Q
from opsearch.runs.config import RunConfig
from opsearch.runs.prepare import settle
from tests.models.judge import TOLERANCE
from tests.models.policies import INSIDE, LAYERS, POLICIES, with_rankers_of
from tests.support import tiny
from tests.support.flash import FLASH, flash_attn_func, flash_attn_varlen_func, installed
from tests.support.messages import refuses

pytestmark = pytest.mark.usefixtures("no_grad")


@pytest.fixture
def flash_attn():
    """Install the stand-in for one test; other tests here need the package itself."""
    with installed():
        yield


def test_the_stand_in_attends_from_the_last_key_backwards():
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, length, heads, 8) for length, heads in ((3, 4), (7, 2), (7, 2)))
    heads_first = [heads.transpose(1, 2) for heads in (q, k, v)]
    bias = causal_lower_right(3, 7)
    wanted = scaled_dot_product_attention(*heads_first, attn_mask=bias, enable_gqa=True)
    found = flash_attn_func(q, k, v, causal=True)
    torch.testing.assert_close(found, wanted.transpose(1, 2))

    rows = torch.cat([q[0], q[1, :1]]), *(torch.cat([x[0], x[1, :4]]) for x in (k, v))
    bounds = torch.tensor([[0, 3, 4], [0, 7, 11]], dtype=torch.int32)
    packed = flash_attn_varlen_func(*rows, *bounds, 3, 7, causal=True)
    alone = flash_attn_func(q[1:, :1], k[1:, :4], v[1:, :4], causal=True)
    torch.testing.assert_close(packed, torch.cat([wanted[0].transpose(0, 1), alone[0]]))


@pytest.mark.parametrize(
    ("label", "layers"),
    [
        ("vtw at 0", 5),
        ("tokens, cls", 4),  # in the last layer only text has queries, and it reads visual tokens
        ("dop, kv leaves", 4),
        ("dop, kv stays", 3),
    ],
)
def test_layers_whose_queries_are_their_keys_are_flash_attentions(
    label, layers, flash_attn, monkeypatch
):
    model, policy, found = tiny.llava(LAYERS, FLASH), POLICIES[label], Counter()
    counts = policy.executed(tiny.PATCHES)
    assert layers == (counts[:, Q] == counts[:, KV]).sum()
    stock = flash_attention._flash_attention_forward

    def counted(query, key, value, mask, **options):
        found[options["is_causal"]] += 1
        return stock(query, key, value, mask, **options)

    check_supported(model)  # compares a layer, once
    monkeypatch.setattr(flash_attention, "_flash_attention_forward", counted)
    with policy.apply(model):
        model(**tiny.prompts([[3, 4], [7]]), logits_to_keep=1)
    assert found == {True: layers, False: 3}, "those of the decoder and those of the tower"


@pytest.mark.parametrize("layout", [[[3, 4], [0, 5]], [[3, 4], [5, 2]]], ids=["other", "alike"])
@pytest.mark.parametrize("turn", [[[0, 1, 1], [1, 1, 1]], [[1, 1, 0], [1, 0, 1]]], ids=str)
def test_queries_on_a_pruned_cache_may_be_padded_too(layout, turn, flash_attn):
    """Second turns of different length: the wrapper removes padding by the last columns."""
    inputs, turn, found = tiny.prompts(layout), torch.tensor(turn), []
    mask = torch.cat([inputs["attention_mask"], turn], 1)
    later = {
        "input_ids": torch.tensor([[7, 8, 9], [10, 11, 12]]),
        "attention_mask": mask,
        "position_ids": (mask.cumsum(1) - 1)[:, -3:],
    }
    for attention in ("sdpa", FLASH):
        model = tiny.llava(LAYERS, attention)
        with POLICIES["stages"].apply(model):
            cache = model(**inputs).past_key_values
            found.append(model(**later, past_key_values=cache).logits[turn.bool()])
    torch.testing.assert_close(*found, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("dtype", "device", "named"),
    [
        ("float32", "cuda", ["float32", "--dtype bfloat16"]),
        ("bfloat16", "cpu", ["'cpu'", "--device cuda"]),
    ],
)
def test_what_a_run_with_it_needs(dtype, device, named):
    with refuses(ModelError, f"--attention {FLASH}", *named, "--attention sdpa"):
        check_attention(FLASH, dtype, device)
    check_attention("sdpa", dtype, device)


@pytest.mark.skipif(is_flash_attn_2_available(), reason="the package is installed")
@pytest.mark.parametrize("device", ["cuda", "cuda:1", "auto"])
def test_a_run_with_it_needs_the_package(device):
    with refuses(ModelError, "flash_attn", "pip install flash-attn", "--attention sdpa"):
        check_attention(FLASH, "bfloat16", device)


def test_a_run_says_so_before_anything_is_loaded():
    with refuses(ModelError, f"--attention {FLASH}", "float32", "--dtype bfloat16"):
        settle(RunConfig(attention=FLASH))


# Tests on a GPU with the package itself, in half precision. Rounding changes rankings by
# attention, so those policies are left out.
BY_POSITION = {
    label: policy
    for label, policy in with_rankers_of(family_for("qwen2_5_vl")).items()
    if label not in INSIDE
}


def on_gpu(attention):
    return tiny.llava(LAYERS, attention).to("cuda", torch.bfloat16)


def given(layout):
    inputs = {name: value.cuda() for name, value in tiny.prompts(layout).items()}
    return {**inputs, "pixel_values": inputs["pixel_values"].bfloat16()}


def with_the_package(test):
    missing = not is_flash_attn_2_available()
    return pytest.mark.gpu(pytest.mark.skipif(missing, reason="flash_attn is not installed")(test))


@with_the_package
@pytest.mark.parametrize("layout", [[[3, 4]], [[3, 4], [1, 0, 6], [7]]], ids=["one", "padded"])
def test_the_kernel_says_what_sdpa_says(layout):
    """Logits of the prompt's last token and of five tokens on the pruned cache."""
    inputs, logits = given(layout), {}
    forced = torch.full((len(layout), 5), 9, device="cuda")
    mask = torch.cat([inputs["attention_mask"], torch.ones_like(forced)], 1)
    later = {"input_ids": forced, "attention_mask": mask}
    for attention in ("sdpa", FLASH):
        model = on_gpu(attention)
        for label, policy in BY_POSITION.items():
            with policy.apply(model):
                first = model(**inputs)
                then = model(**later, past_key_values=first.past_key_values)
            logits[attention, label] = torch.cat([first.logits[:, -1:], then.logits], 1)
    for label in BY_POSITION:
        difference = logits[FLASH, label] - logits["sdpa", label]
        assert difference.abs().max() < 0.15, label


@with_the_package
def test_a_captured_graph_answers_like_the_kernel():
    model, graphs = on_gpu(FLASH), Graphs()
    for label, policy in BY_POSITION.items():
        for layout in ([[3, 4]], [[5, 2]]):
            inputs = given(layout)
            with policy.apply(model):
                wanted = model(**inputs).logits
            with policy.apply(model, graphs=graphs):
                found = model(**inputs).logits
            torch.testing.assert_close(found, wanted, rtol=0, atol=0.15, msg=label)
