"""Every model family as a tiny random model, with prompts and reference values for it.

A family is a module with
    model(layers, attention): the model, its weights large enough to make pruned operations visible;
    processor(tokenizer, template): its processor, with a matching image size;
    SIZES: image sizes in the family's own terms, with different numbers of visual tokens;
    AROUND: tokens before and after each image;
    tokens(size, alone): visual tokens of an image; `alone`: it is the only one of its sample;
    pixels(samples, ids, generator): model inputs for images of these sizes, beside the ids;
    scores(model, inputs): [CLS]'s attention to all visual tokens, or None without a [CLS];
    features(model, inputs): tile and projector input of all visual tokens, or None;
    positions(inputs): each sample's rotary positions without its padding, [S] or [3, S];
    given_positions(inputs): arguments that make a plain forward use these positions.
Families with videos also have
    VIDEO: all tokens of a video in a prompt;
    video_pixels(number, ids, generator): model inputs for so many of these videos.
"""

from functools import cache

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
    qwen2_5_vl,
    qwen2_vl,
    qwen3_vl,
    qwen3_vl_moe,
    smolvlm,
    vipllava,
)

FAMILIES = {
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
    "qwen2_5_vl": qwen2_5_vl,
    "qwen2_vl": qwen2_vl,
    "qwen3_vl": qwen3_vl,
    "qwen3_vl_moe": qwen3_vl_moe,
    "smolvlm": smolvlm,
    "vipllava": vipllava,
}


@cache
def built(name, layers, attention="sdpa"):
    """Return a family's model, shared by all tests that do not change it."""
    return FAMILIES[name].model(layers, attention)
