"""Slow masked reference model: one sample at a time, full size, plain loops.

It shares no code with the package: it reads the weights, computes every row of every layer and only
masks what a policy prunes. Operations are kept where a token's rank is below the count.
"""

import torch
from torch.nn import functional

TEXT = -1
IMAGES = ("image_sizes", "image_grid_thw", "batch_num_images", "pixel_attention_mask")
VIDEOS = ("video_grid_thw",)


def visual_features(model, inputs):
    """Return the stock model's features of all visual tokens of a batch, in prompt order.

    Returns:
        [N, D], then the same for each of the first decoder layers that add features to the visual
        tokens (DeepStack, arXiv:2406.04334); in most models none does.
    """
    encoders = {
        "image": ("pixel_values", IMAGES),
        "video": ("pixel_values_videos", VIDEOS),
    }
    ids, width = inputs["input_ids"], model.config.get_text_config().hidden_size
    found = [torch.zeros(*ids.shape, width, dtype=model.dtype)]
    for kind, (pixels, names) in encoders.items():
        if pixels not in inputs:
            continue
        given = {name: inputs[name] for name in names if name in inputs}
        encode = getattr(model.model, f"get_{kind}_features", model.model.get_image_features)
        output = encode(inputs[pixels], **given, return_dict=True)
        parts = [output.pooler_output, *(getattr(output, "deepstack_features", None) or [])]
        found += [torch.zeros_like(found[0]) for _ in parts[len(found) :]]
        for rows, features in zip(found, parts, strict=True):
            rows[ids == placeholder(model, kind)] = joined(features)
    return [rows[is_visual(model, ids)] for rows in found]


def joined(parts):
    """Return the features of several images or videos, each [..., D], as one tensor [N, D]."""
    if isinstance(parts, torch.Tensor):
        return parts.flatten(0, -2)
    return torch.cat([features.flatten(0, -2) for features in parts])


def placeholder(model, kind):
    """Return the token that stands for the features of images or videos, -1 without such a token.

    GLM-V marks each frame of a video as an image.
    """
    kind = "image" if model.config.model_type in ("glm4v", "glm46v") else kind
    return getattr(model.config, f"{kind}_token_id", -1)


def decoder(model):
    """Return the text decoder."""
    return getattr(model.model, "text_model", None) or model.model.language_model


def is_visual(model, ids):
    """Return a mask of the visual positions."""
    return sum(ids == placeholder(model, kind) for kind in ("image", "video")).bool()


def embed(model, ids, features):
    """Return the input embeddings of one sample [S, D] and a mask of its visual positions [S]."""
    visual = is_visual(model, ids)
    x = decoder(model).embed_tokens(ids).clone()
    x[visual] = features.to(x.dtype)
    return with_indicators(model, ids, x), visual


def with_indicators(model, ids, x):
    """Replace the embeddings of the tokens around images by the last of Ovis's visual table."""
    indicators = getattr(model.config, "visual_indicator_token_ids", ())
    for number, token in enumerate(indicators):
        x[ids == token] = model.model.visual_embeddings_table.weight[number - len(indicators)]
    return x


def window_of(text, number):
    """Return the number of last tokens that a layer's rows read, each itself included, or None."""
    kinds = getattr(text.config, "layer_types", None)
    if kinds and kinds[number] != "sliding_attention":
        return None
    return getattr(text.config, "sliding_window", None)


def same_image(rank):
    """Return which pairs of tokens are of the same run of visual tokens, [S, S]."""
    visual = rank != TEXT
    first = visual & ~torch.cat([visual.new_zeros(1), visual[:-1]])
    image = first.cumsum(0)
    return visual & visual[:, None] & (image == image[:, None])


def seen_by(model, number, rank, prompt):
    """Return which tokens each row of a layer reads in the original model, [S, S].

    Rows read earlier tokens and themselves. In Gemma 3, images read themselves in both directions,
    and sliding layers read a window of the last tokens. In PaliGemma, the `prompt` first tokens
    read each other, also beyond the window.
    """
    kind, window = model.config.model_type, window_of(decoder(model), number)
    row, column = torch.arange(len(rank))[:, None], torch.arange(len(rank))
    seen = column <= row
    if kind == "gemma3":
        seen = seen | same_image(rank)
    if window:
        seen = seen & (column > row - window)
    if kind == "paligemma":
        seen = seen | ((row < prompt) & (column < prompt))
    return seen


def frequencies(text, number):
    """Return the inverse frequencies of a layer's rotation; Gemma 3 has them by type of layer."""
    name = "inv_freq"
    if not hasattr(text.rotary_emb, name):
        name = f"{text.config.layer_types[number]}_{name}"
    return getattr(text.rotary_emb, name).float()


def angles(text, positions, number):
    """Return the angle of each pair of dimensions [S, P] at positions [S], or [3, S].

    Positions [3, S] are those in time, height and width; each pair turns with one of them.
    """
    by_pair = positions[axes(text)].T if positions.ndim == 2 else positions[:, None]
    return by_pair.float() * frequencies(text, number)


def axes(text):
    """Return for each pair of dimensions the axis it turns with: 0 time, 1 height, 2 width.

    Most models give each axis a chunk, Qwen3-VL deals the pairs out in turn; pairs that are left
    belong to time.
    """
    sections = text.config.rope_parameters["mrope_section"]
    if text.config.model_type.startswith("qwen3_vl"):
        return [i % 3 if i < 3 * sections[i % 3] else 0 for i in range(sum(sections))]
    return [axis for axis, pairs in enumerate(sections) for _ in range(pairs)]


def rotate(x, turned, neighbours):
    """Rotate pairs of dimensions of each head by their angles; dimensions without one stay.

    neighbours: dimensions 2 i and 2 i + 1 are a pair, else i and P + i.
    """
    x, pairs = x.float(), turned.shape[-1]
    first, second = slice(0, pairs), slice(pairs, 2 * pairs)
    if neighbours:
        first, second = slice(0, 2 * pairs, 2), slice(1, 2 * pairs, 2)
    result = x.clone()
    result[..., first] = x[..., first] * turned.cos() - x[..., second] * turned.sin()
    result[..., second] = x[..., second] * turned.cos() + x[..., first] * turned.sin()
    return result


def rotated(text, number, x, positions):
    """Return queries or keys [H, S, hd] of a layer at their positions."""
    kind = text.config.model_type
    if kind == "cohere2" and window_of(text, number) is None:
        return x
    neighbours = kind in ("cohere2", "glm4v_text")
    return rotate(x, angles(text, positions, number), neighbours)


def heads_of(attn, name, h):
    """Return the queries, keys or values [H, S, hd], normalised where the family does it."""
    split = getattr(attn, f"{name}_proj")(h)[0].unflatten(-1, (-1, attn.head_dim))
    norm = getattr(attn, f"{name}_norm", None)
    return (norm(split) if norm else split).transpose(0, 1)


def attention_of(attn, q, k, allowed):
    """Return softmax attention [H, S, S] to the allowed columns, 0 in rows that see none."""
    scores = capped((q * attn.scaling) @ k.transpose(1, 2), attn.config, "attn_logit_softcapping")
    weights = torch.softmax(scores.masked_fill(~allowed, -torch.inf).float(), -1)
    return torch.nan_to_num(weights, nan=0.0)


def capped(scores, config, name):
    """Return scores held within +- the cap of this name, where Gemma 2 has one."""
    cap = getattr(config, name, None)
    return scores if cap is None else torch.tanh(scores / cap) * cap


def attention_update(layer, mixed):
    """Return what the attention's output adds; Gemma 2 and 3 and GLM-V normalise it first."""
    if hasattr(layer, "pre_feedforward_layernorm"):
        return layer.post_attention_layernorm(mixed)
    if hasattr(layer, "post_self_attn_layernorm"):
        return layer.post_self_attn_layernorm(mixed)
    return mixed


def mlp_update(layer, x, h):
    """Return what the MLP adds to x [S, D].

    Gemma 2 and 3 and GLM-V normalise before and behind it. In Cohere's parallel block it reads
    h [1, S, D], which the attention reads too.
    """
    if hasattr(layer, "pre_feedforward_layernorm"):
        update = layer.mlp(layer.pre_feedforward_layernorm(x)[None])
        return layer.post_feedforward_layernorm(update)[0]
    if not hasattr(layer, "post_attention_layernorm"):
        return layer.mlp(h)[0]
    update = layer.mlp(layer.post_attention_layernorm(x)[None])[0]
    if hasattr(layer, "post_mlp_layernorm"):
        return layer.post_mlp_layernorm(update)
    return update


def reordered(rank, scores, pool):
    """Rerank the first `pool` tokens by descending score; ties by position."""
    tokens = [i for i, place in enumerate(rank.tolist()) if 0 <= place < pool]
    order = sorted(tokens, key=lambda i: (-scores[tokens.index(i)], i))
    rank = rank.clone()
    for place, token in enumerate(order):
        rank[token] = place
    return rank


def survivors(counts, layer, n):
    """Return the number of candidates before a layer.

    They are the tokens that the preceding layer updates, or that this one or a later one processes.
    """
    if layer == 0:
        return n
    n_q, _, n_mlp = counts[layer - 1]
    return max(n_q, n_mlp, *(count for triple in counts[layer:] for count in triple))


def masked_forward(model, x, rank, counts, positions, inside=None, prompt=None, added=()):
    """Return the logits [S, V] of one sample.

    Args:
        model: The model.
        x: Embeddings, [S, D].
        rank: Ranks, [S], TEXT at text.
        counts: Counts of (q, kv, mlp), [L][3].
        positions: Positions, [S]; of time, height and width, [3, S].
        inside: By layer, the ranker that acts before it: the distance to the layer whose attention
            it reads, and a function that returns its scores from attention [H][S][S] and the
            visual tokens.
        prompt: Number of tokens before the answer; all of x by default.
        added: By layer, what it adds to all visual tokens behind its operations, [N, D].
    """
    inside, weights = inside or {}, None
    text = decoder(model)
    is_text = rank == TEXT
    length = len(rank)
    for number, (layer, (n_q, n_kv, n_mlp)) in enumerate(zip(text.layers, counts, strict=True)):
        attn = layer.self_attn
        seen = seen_by(model, number, rank, length if prompt is None else prompt)
        # In a batch of one: quantisers give each token a scale of its own only in a batch.
        h = layer.input_layernorm(x)[None]
        q = rotated(text, number, heads_of(attn, "q", h), positions)
        k = rotated(text, number, heads_of(attn, "k", h), positions)
        v = heads_of(attn, "v", h)
        k = k.repeat_interleave(q.shape[0] // k.shape[0], 0)
        v = v.repeat_interleave(q.shape[0] // v.shape[0], 0)
        if number in inside:
            back, score = inside[number]
            if back:
                pool = counts[number - 1][1]
            else:
                pool = survivors(counts, number, int((~is_text).sum()))
                weights = attention_of(attn, q, k, seen & (is_text | (rank < pool)))
            tokens = [i for i, place in enumerate(rank.tolist()) if 0 <= place < pool]
            rank = reordered(rank, score(weights.tolist(), tokens) if tokens else [], pool)
        allowed = seen & (is_text | (rank < n_kv))
        weights = attention_of(attn, q, k, allowed)
        mixed = (weights.to(v.dtype) @ v).transpose(0, 1).reshape(1, length, -1)
        mixed = attn.o_proj(mixed)[0] * allowed.any(1)[:, None]
        x = torch.where((is_text | (rank < n_q))[:, None], x + attention_update(layer, mixed), x)
        x = torch.where((is_text | (rank < n_mlp))[:, None], x + mlp_update(layer, x, h), x)
        if number < len(added):
            x[~is_text] += added[number]
    logits = functional.linear(text.norm(x), model.lm_head.weight)
    return capped(logits, text.config, "final_logit_softcapping")


def rank_by(scores, visual):
    """Rank visual positions by descending score, TEXT elsewhere; ties by position."""
    rank = torch.full(visual.shape, TEXT)
    places = visual.nonzero().flatten().tolist()
    order = sorted(range(len(places)), key=lambda i: (-float(scores[i]), i))
    for r, i in enumerate(order):
        rank[places[i]] = r
    return rank


def greedy(model, x, rank, counts, positions, steps, never=(), inside=None, added=()):
    """Return tokens and logits of greedy decoding that recomputes everything for each token.

    Tokens in `never` are not chosen.
    """
    tokens, all_logits, prompt = [], [], len(x)
    for _ in range(steps):
        logits = masked_forward(model, x, rank, counts, positions, inside, prompt, added)[-1]
        allowed = logits.clone()
        allowed[list(never)] = -torch.inf
        token = int(allowed.argmax())
        tokens.append(token)
        all_logits.append(logits)
        x = torch.cat([x, decoder(model).embed_tokens(torch.tensor([token]))])
        rank = torch.cat([rank, torch.tensor([TEXT])])
        positions = torch.cat([positions, positions[..., -1:] + 1], -1)
    return tokens, torch.stack(all_logits)
