"""Inputs captured in vision towers belong to the right tokens of every family, videos included."""

from itertools import chain
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import GenerationMixin

from opsearch.errors import ModelError
from opsearch.models import tower_attention
from opsearch.models.families import family_for
from opsearch.models.tower_attention import attention_layers, chosen_layer
from opsearch.policy import builders
from opsearch.policy.ranker import RankerSpec
from opsearch.rankers.received import Received
from tests.models.judge import samples
from tests.models.policies import LAYERS, MIXED
from tests.support import tiny
from tests.support.families import EACH, FAMILIES, built, grids, is_causal
from tests.support.families.prompt import cls_attention, prompts, received_by_patches
from tests.support.flash import FLASH
from tests.support.messages import refuses

pytestmark = pytest.mark.usefixtures("no_grad", "flash_attn")

MIDDLE = "received_attention:0.5"
every_tower = pytest.mark.parametrize(
    "name", [each for each in EACH if family_for(each.id).capture_tower]
)
NEEDS = frozenset({MIDDLE, "vision_features", "tiles"})


def captured(name, inputs, needs=NEEDS, attention="sdpa"):
    """Return what is captured in a forward; the model is stock again behind it."""
    model, family, found = built(name, LAYERS, attention), family_for(name), {}
    handles = family.capture(model, needs, found.__setitem__)
    try:
        model(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found


# Attention received in one layer


@pytest.mark.parametrize("at_once", [10**9, 40, 1])
@pytest.mark.parametrize("kind", [None, "bool", "float", "of keys"])
def test_received_attention_is_the_sum_over_queries(kind, at_once, monkeypatch):
    monkeypatch.setattr(tower_attention, "_CELLS", at_once)
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 2, 3, 7, 4, generator=generator)
    seen = torch.rand(2, 1, 1 if kind == "of keys" else 7, 7, generator=generator) > 0.4
    seen[..., 0] = True
    mask = {None: None, "float": torch.where(seen, 0.0, -torch.inf)}.get(kind, seen)
    wanted = torch.zeros(2, 7)
    for image in range(2):
        for head in range(3):
            for row in range(7):
                logits = torch.stack([q[image, head, row] @ key * 0.5 for key in k[image, head]])
                if kind:
                    allowed = seen[image, 0].expand(7, 7)[row]
                    logits[~allowed] = -torch.inf
                wanted[image] += logits.softmax(0) / 3
    torch.testing.assert_close(tower_attention.received(q, k, 0.5, mask), wanted)


@pytest.mark.parametrize(
    ("layer", "index"), [("0.5", 11), ("0.375", 8), ("1.0", 23), ("0.01", 0), ("9", 9), ("-2", 22)]
)
def test_a_layer_is_an_index_or_a_share_of_the_depth(layer, index):
    assert (
        chosen_layer(SimpleNamespace(num_hidden_layers=24), f"received_attention:{layer}") == index
    )


@pytest.mark.parametrize(("layer", "index"), [("0.5", 15), ("0.7", 23), ("0.6", 15), ("-1", 31)])
def test_a_share_names_the_nearest_layer_without_windows(layer, index):
    config = SimpleNamespace(depth=32, fullatt_block_indexes=[7, 15, 23, 31])
    assert chosen_layer(config, f"received_attention:{layer}") == index


@pytest.mark.parametrize(
    ("layer", "reasons"), [(0, ("windows", "layers 1 ")), (2, (2, 2, "layers"))]
)
def test_layers_that_cannot_be_read(layer, reasons):
    policy = builders.tokens(LAYERS, "1/2", RankerSpec("received", (("layer", layer),)))
    refused = refuses(ModelError, "'qwen2_5_vl'", f"received_attention:{layer}", *reasons)
    with refused, policy.apply(built("qwen2_5_vl", LAYERS)):
        pass


def test_a_tower_without_attention_layers():
    with refuses(ModelError, "Sequential", "--ranker"):
        attention_layers(torch.nn.Sequential(torch.nn.Linear(2, 2)))


# Towers of all families


@every_tower
@pytest.mark.parametrize("attention", ["sdpa", "eager", FLASH])
def test_captured_values_are_those_of_the_description(name, attention):
    if attention == FLASH and not is_causal(name):
        pytest.skip("its decoder needs a mask")
    inputs = prompts(FAMILIES[name], MIXED, seed=2)
    rows = samples(built(name, LAYERS, attention), inputs)
    found = captured(name, inputs, attention=attention)
    wanted = {
        MIDDLE: torch.cat([row.received for row in rows]),
        "vision_features": torch.cat([row.features for row in rows]),
    }
    for need, value in wanted.items():
        torch.testing.assert_close(found[need], value, rtol=1e-4, atol=1e-5)
    assert wanted[MIDDLE].unique().numel() > 15, "a constant would agree with a constant"
    own = torch.cat([row.tile for row in rows])
    pairs = set(zip(found["tiles"].tolist(), own.tolist(), strict=True))
    assert len(pairs) == len(own.unique()) == len(found["tiles"].unique())


class Shapes(TorchDispatchMode):
    """Keep the last two dimensions of all tensors that are computed."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        tensors = filter(torch.is_tensor, tree_leaves(found))
        self.seen |= {tuple(each.shape[-2:]) for each in tensors}
        return found


def test_images_packed_for_flash_attention_are_read_one_by_one():
    """A mask over the patches of all images would grow with the square of their number."""
    family = FAMILIES["mistral3"]
    inputs = prompts(family, MIXED, seed=2)
    with Shapes() as shapes:
        found = captured("mistral3", inputs, {MIDDLE}, FLASH)[MIDDLE]
    numbers = [high * wide // family.PATCH**2 for high, wide in inputs["image_sizes"].tolist()]
    assert {(number, number) for number in numbers} <= shapes.seen
    assert (sum(numbers), sum(numbers)) not in shapes.seen
    torch.testing.assert_close(found, captured("mistral3", inputs, {MIDDLE})[MIDDLE])


@every_tower
def test_capturing_changes_no_bit_and_leaves_the_model_as_it_was(name):
    model, inputs = built(name, LAYERS), prompts(FAMILIES[name], MIXED)
    stock = model(**inputs).logits
    attention = attention_layers(model.get_submodule(family_for(name).vision_tower))
    before = [vars(each)["config"] for each in attention]
    depth = len(attention)
    needs = {MIDDLE, f"received_attention:{depth - 1}", "received_attention:-1"}
    found = captured(name, inputs, needs)
    assert torch.equal(found["received_attention:-1"], found[f"received_attention:{depth - 1}"])
    assert all(vars(each)["config"] is own for each, own in zip(attention, before, strict=True))
    handles = family_for(name).capture(model, needs, {}.__setitem__)
    assert torch.equal(model(**inputs).logits, stock)
    for handle in handles:
        handle.remove()


def test_tiles_of_a_scaled_image_are_the_nearest_ones():
    """4 x 4 tiles are scaled from 8 x 8 to 6 x 6 patches; those on an edge go to the lower tile."""
    model = FAMILIES["llava_onevision"].model(2)
    model.config.image_grid_pinpoints = model.model.config.image_grid_pinpoints = [[48, 48]]
    ids = torch.tensor([[9, *[tiny.IMAGE] * (4 + 6 * 7), 11]])
    pixels = torch.randn(1, 17, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    found = {}
    family_for("llava_onevision").capture(model, {"tiles"}, found.__setitem__)
    model(input_ids=ids, pixel_values=pixels, image_sizes=torch.tensor([[48, 48]]))
    across = [0, 0, 1, 2, 2, 3]
    wanted = [[1 + 4 * y + x for x in (*across, 3)] for y in across]
    assert found["tiles"].tolist() == [0] * 4 + list(chain(*wanted))


# Videos


def next_video(order):
    """Return a prompt with an image of 14 tokens and five frames of one token."""
    inputs, generator = onevision(order, [tiny.VIDEO] * 5), torch.Generator().manual_seed(1)
    del inputs["batch_num_images"]
    return inputs | FAMILIES["llava_next_video"].video_pixels(1, None, generator)


def onevision(order, video=(tiny.VIDEO,) * 3):
    """Return a prompt with an image of 14 tokens and two frames of one token and a newline."""
    family, generator = FAMILIES["llava_onevision"], torch.Generator().manual_seed(0)
    runs = {"image": [tiny.IMAGE] * 14, "video": video}
    ids = torch.tensor([[9, *runs[order[0]], 8, *runs[order[1]], 11, 12]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    inputs |= family.pixels([[(13, 24)]], ids, generator)
    inputs["pixel_values_videos"] = torch.randn(1, 2, 3, 12, 12, generator=generator)
    return inputs


def qwen3(order):
    """Return the prompt of `qwen` with a timestamp before each frame."""
    return qwen(order, FAMILIES["qwen3_vl"].VIDEO)


def qwen(order, video=(grids.START, *[tiny.VIDEO] * 12, grids.END)):
    """Return a prompt with an image of 4 tokens and a video of two frames of 6 tokens."""
    family, generator = FAMILIES["qwen2_5_vl"], torch.Generator().manual_seed(0)
    runs = {"image": [grids.START, *[tiny.IMAGE] * 4, grids.END], "video": video}
    ids = torch.tensor([[9, *runs[order[0]], 8, *runs[order[1]], 11, 12]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    inputs |= family.pixels([[(1, 4, 4)]], ids, generator)
    inputs["pixel_values_videos"] = torch.randn(48, 96, generator=generator)
    return inputs | {"video_grid_thw": torch.tensor([[2, 4, 6]])}


def values_of_next_video(model, inputs):
    alone = FAMILIES["llava_next"].received(model, inputs)
    frames = received_by_patches(model.model.vision_tower, inputs["pixel_values_videos"][0], 1)
    return {"image": alone, "video": frames.mean(1)}


def values_of_onevision(model, inputs):
    alone = FAMILIES["llava_onevision"].received(model, inputs)
    frames = received_by_patches(model.model.vision_tower, inputs["pixel_values_videos"][0], 0, 0)
    pooled = frames.mean(1)
    return {"image": alone, "video": torch.cat([pooled, pooled[-1:]])}


def values_of_qwen(model, inputs):
    family = FAMILIES[model.config.model_type]
    video = {
        "pixel_values": inputs["pixel_values_videos"],
        "image_grid_thw": inputs["video_grid_thw"],
    }
    return {"image": family.received(model, inputs), "video": family.received(model, video)}


VIDEOS = {
    "llava_next_video": (next_video, values_of_next_video, [0, 1, 1, 1, 1], [0, 1, 2, 3, 4]),
    "llava_onevision": (onevision, values_of_onevision, [0, 1, 0], [0, 1, 1]),
    "qwen2_5_vl": (qwen, values_of_qwen, [0] * 6 + [6] * 6, [0] * 6 + [1] * 6),
    "qwen3_vl": (qwen3, values_of_qwen, [0] * 6 + [6] * 6, [0] * 6 + [1] * 6),
}
orders = pytest.mark.parametrize("order", [("image", "video"), ("video", "image")], ids="-".join)
families_with_videos = pytest.mark.parametrize("name", VIDEOS)


class Recorder(Received):
    """Ranking by attention received that keeps the prompts it ranks."""

    needs = frozenset({MIDDLE, "tiles", "vision_features", "previous_frame"})

    def __init__(self, prompts):
        super().__init__()
        object.__setattr__(self, "prompts", prompts)

    def rank(self, prompt, n):
        self.prompts.append(prompt)
        return super().rank(prompt, n)


@pytest.fixture
def ranked(monkeypatch):
    """Prompts ranked by the policies of a test that rank by `received`."""
    found = []
    monkeypatch.setattr("opsearch.rankers.received.Received", lambda: Recorder(found))
    return found


@orders
@families_with_videos
def test_values_of_images_and_videos_are_in_the_order_of_the_prompt(name, order, ranked):
    make, read, steps, frames = VIDEOS[name]
    model, inputs = built(name, LAYERS), make(order)
    policy = builders.tokens(LAYERS, "1/2", RankerSpec("received"))
    with policy.apply(model):
        model(**inputs)
    (prompt,) = ranked
    values = read(model, inputs)
    wanted = torch.cat([values[kind] for kind in order])
    torch.testing.assert_close(prompt.captured[MIDDLE], wanted, rtol=0, atol=1e-5)
    kinds = [kind for kind in order for _ in values[kind]]
    assert [
        int(step)
        for step, kind in zip(prompt.captured["previous_frame"], kinds, strict=True)
        if kind == "video"
    ] == steps
    tiles = prompt.captured["tiles"].tolist()
    of_videos = [tile for tile, kind in zip(tiles, kinds, strict=True) if kind == "video"]
    assert [tile - of_videos[0] for tile in of_videos] == frames
    of_images = {tile for tile, kind in zip(tiles, kinds, strict=True) if kind == "image"}
    assert not of_images & set(of_videos)
    assert len(prompt.captured["vision_features"]) == prompt.n_visual[0]


@pytest.mark.skipif(
    not hasattr(GenerationMixin, "_expand_multimodal_outputs"),
    reason="old transformers mixes up the images of samples that have several",
)
@orders
@families_with_videos
@pytest.mark.parametrize("ranker", ["evs", "mmtok", "received"])
def test_beams_rank_images_and_videos_as_their_sample_does(name, order, ranker):
    model, inputs = built(name, LAYERS), VIDEOS[name][0](order)
    settings = {"max_new_tokens": 2, "do_sample": False, "output_logits": True, "num_beams": 2}
    with builders.tokens(LAYERS, "1/2", RankerSpec(ranker)).apply(model):
        plain = model(**inputs).logits[:, -1].expand(2, -1)
        beams = model.generate(**inputs, **settings, return_dict_in_generate=True).logits[0]
    torch.testing.assert_close(beams, plain, rtol=0, atol=2e-5)


@families_with_videos
def test_a_video_alone(name, ranked):
    """Its tokens are all visual tokens of the prompt."""
    make, read, steps, _ = VIDEOS[name]
    model, inputs = built(name, LAYERS), make(("image", "video"))
    values = read(model, inputs)["video"]
    ids = inputs["input_ids"]
    inputs["input_ids"] = ids = ids[:, int((ids == 8).nonzero()[0, 1]) :]
    inputs["attention_mask"] = torch.ones_like(ids)
    for key in ("pixel_values", "image_sizes", "batch_num_images", "image_grid_thw"):
        inputs.pop(key, None)
    if "mm_token_type_ids" in inputs:
        inputs["mm_token_type_ids"] = 2 * (ids == tiny.VIDEO).int()
    with builders.tokens(LAYERS, "1/2", RankerSpec("received")).apply(model):
        model(**inputs)
    torch.testing.assert_close(ranked[0].captured[MIDDLE], values, rtol=0, atol=1e-5)
    assert ranked[0].captured["previous_frame"].tolist() == steps


def test_attention_of_cls_to_a_pooled_token_is_the_mean_over_its_patches():
    inputs = FAMILIES["llava_next_video"].video_pixels(1, None, torch.Generator().manual_seed(0))
    ids = torch.tensor([[9, *[tiny.VIDEO] * 5, 11]])
    found = captured("llava_next_video", inputs | {"input_ids": ids}, {"cls_attention"})
    tower = built("llava_next_video", LAYERS).model.vision_tower
    wanted = cls_attention(tower, inputs["pixel_values_videos"][0], -2).mean(1)
    torch.testing.assert_close(found["cls_attention"], wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["glm4v", "glm46v"])
def test_evs_needs_a_tower_that_reads_videos_as_such(name):
    policy = builders.tokens(LAYERS, "1/2", RankerSpec("evs"))
    refused = refuses(ModelError, f"'{name}'", "'previous_frame'", "frames", "--ranker")
    with refused, policy.apply(built(name, LAYERS)):
        pass


def test_evs_needs_a_family_with_videos():
    policy = builders.tokens(LAYERS, "1/2", RankerSpec("evs"))
    refused = refuses(ModelError, "'llava'", "'previous_frame'", "no videos", "--ranker")
    with refused, policy.apply(built("llava", LAYERS)):
        pass
