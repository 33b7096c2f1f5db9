"""Every model family as a tiny random model, with prompts and reference values for it.

A family is a module with
    model(layers, attention): the model, its weights large enough to make pruned operations visible;
    processor(tokenizer, template): its processor, with a matching image size;
    SIZES: image sizes in the family's own terms, with different numbers of visual tokens;
    AROUND: tokens before and after each image;
    tokens(size, alone): visual tokens of an image; `alone`: it is the only one of its sample;
    pixels(samples, ids, generator): model inputs for images of these sizes, beside the ids;
    scores(model, inputs): [CLS]'s attention to all visual tokens, or None without a [CLS];
    received(model, inputs): attention received in the middle of the tower by all visual tokens;
    features(model, inputs): tile and projector input of all visual tokens;
    positions(inputs): each sample's rotary positions without its padding, [S] or [3, S];
    given_positions(inputs): arguments that make a plain forward use these positions.
Families with videos also have
    VIDEO: all tokens of a video in a prompt;
    video_pixels(number, ids, generator): model inputs for so many of these videos.
Families whose vision tower needs a package that is not installed are left out.
"""

from functools import cache
from importlib.util import find_spec

import pytest

from tests.support.families import (
    aya_vision,
    cohere2_vision,
    gemma3,
    glm4v,
    glm46v,
    idefics3,
    internvl,
    llava,
    llava_next,
    llava_next_video,
    llava_onevision,
    mistral3,
    ovis2,
    paligemma,
    perception_lm,
    qwen2_5_vl,
    qwen2_vl,
    qwen3_vl,
    qwen3_vl_moe,
    smolvlm,
    vipllava,
)

_EVERY = {
    "aya_vision": aya_vision,
    "cohere2_vision": cohere2_vision,
    "gemma3": gemma3,
    "glm46v": glm46v,
    "glm4v": glm4v,
    "idefics3": idefics3,
    "internvl": internvl,
    "llava": llava,
    "llava_next": llava_next,
    "llava_next_video": llava_next_video,
    "llava_onevision": llava_onevision,
    "mistral3": mistral3,
    "ovis2": ovis2,
    "paligemma": paligemma,
    "perception_lm": perception_lm,
    "qwen2_5_vl": qwen2_5_vl,
    "qwen2_vl": qwen2_vl,
    "qwen3_vl": qwen3_vl,
    "qwen3_vl_moe": qwen3_vl_moe,
    "smolvlm": smolvlm,
    "vipllava": vipllava,
}
# The package that a vision tower comes from.
NEEDED = {"perception_lm": "timm"}
FAMILIES = {
    name: family for name, family in _EVERY.items() if name not in NEEDED or find_spec(NEEDED[name])
}

# Families of which each differs from the others in what a policy must know; the rest are slow.
QUICK = (
    "aya_vision",
    "gemma3",
    "internvl",
    "llava",
    "llava_next",
    "llava_onevision",
    "qwen2_5_vl",
    "qwen3_vl",
)
EACH = [
    pytest.param(name, marks=() if name in QUICK else (pytest.mark.slow,), id=name)
    for name in FAMILIES
]

# Families whose processor works without torchvision.
PILLOW_ONLY = ("llava", "llava_next", "vipllava")
# Families whose processor gives numpy a tensor to copy; torch does not know numpy's new argument.
COPIES = ("glm46v", "glm4v", "paligemma")
_COPIED = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)


def _with_processor(name):
    """Return a family as a parameter of tests that call its processor."""
    marks = () if name in PILLOW_ONLY else (pytest.mark.requires_torchvision,)
    return pytest.param(name, marks=(*marks, _COPIED) if name in COPIES else marks, id=name)


WITH_PROCESSOR = [_with_processor(name) for name in FAMILIES]


@cache
def built(name, layers, attention="sdpa"):
    """Return a family's model, shared by all tests that do not change it."""
    return FAMILIES[name].model(layers, attention)


def has_one_kind(name):
    """Return whether all layers share their attention mask."""
    return (
        len(set(getattr(built(name, 5).config.get_text_config(), "layer_types", None) or [0])) == 1
    )


def is_causal(name):
    """Return whether all layers attend to all earlier tokens alone, as FlashAttention does."""
    text = built(name, 1).config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or ["full_attention"])
    windows = kinds != {"full_attention"} or getattr(text, "sliding_window", None)
    return name not in ("gemma3", "paligemma") and not windows
