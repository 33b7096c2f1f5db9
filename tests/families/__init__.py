"""Every model family as a tiny random model, with prompts for it and what the judge must know.

A family is a module with
    model(layers, attention): the model, its weights large enough to make pruned operations visible;
    processor(tokenizer, template): its processor, with a picture size to match;
    SIZES: sizes of pictures in the family's own terms, with different numbers of visual tokens;
    AROUND: tokens that stand before and behind each picture;
    tokens(size, alone): visual tokens of a picture, `alone` in its sample or not;
    pixels(samples, ids, generator): what belongs to pictures, given by their sizes, and to ids;
    scores(model, inputs): [CLS]'s attention to all visual tokens, None where there is no [CLS];
    features(model, inputs): the tile and what the projector reads of all visual tokens, or None;
    positions(inputs): each sample's rotary positions without its padding, [S] or [3, S];
    given_positions(inputs): arguments that make a plain forward use these positions.
"""

from functools import cache

from tests.families import internvl, llava, llava_next, llava_onevision, qwen2_5_vl

FAMILIES = {
    "internvl": internvl,
    "llava": llava,
    "llava_next": llava_next,
    "llava_onevision": llava_onevision,
    "qwen2_5_vl": qwen2_5_vl,
}


@cache
def built(name, layers, attention="sdpa"):
    """A family's model, made once for all tests that leave it as it is."""
    return FAMILIES[name].model(layers, attention)
