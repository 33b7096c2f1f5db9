"""Slow masked reference model: one sample at a time, full size, plain loops.

It shares no code with the package: it reads the weights, computes every row of every layer and only
masks what a policy prunes. Operations are kept where a token's rank is below the count.
"""

import torch
from torch.nn import functional

TEXT = -1
IMAGES = ("image_sizes", "image_grid_thw", "batch_num_images")
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
    found = [torch.zeros(*ids.shape, width)]
    for kind, (pixels, names) in encoders.items():
        if pixels not in inputs:
            continue
        given = {name: inputs[name] for name in names if name in inputs}
        encode = getattr(model.model, f"get_{kind}_features")
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


def is_visual(model, ids):
    """Return a mask of the visual positions."""
    return sum(ids == placeholder(model, kind) for kind in ("image", "video")).bool()


def embed(model, ids, features):
    """Return the input embeddings of one sample [S, D] and a mask of its visual positions [S]."""
    visual = is_visual(model, ids)
    x = model.model.language_model.embed_tokens(ids).clone()
    x[visual] = features.to(x.dtype)
    return x, visual


def angles(text, positions):
    """Return the angle of each pair of dimensions [S, P] at positions [S], or [3, S].

    Positions [3, S] are those in time, height and width; each pair turns with one of them.
    """
    inverse = text.rotary_emb.inv_freq.float()
    by_pair = positions[axes(text)].T if positions.ndim == 2 else positions[:, None]
    return by_pair.float() * inverse


def axes(text):
    """Return for each pair of dimensions the axis it turns with: 0 time, 1 height, 2 width.

    Most models give each axis a chunk, Qwen3-VL deals the pairs out in turn; pairs that are left
    belong to time.
    """
    sections = text.config.rope_parameters["mrope_section"]
    if text.config.model_type.startswith("qwen3_vl"):
        return [i % 3 if i < 3 * sections[i % 3] else 0 for i in range(sum(sections))]
    return [axis for axis, pairs in enumerate(sections) for _ in range(pairs)]


def rotate(x, turned, neighbours=False):
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


def rotates_neighbours(text):
    """Return whether neighbouring dimensions are rotated as pairs."""
    return text.config.model_type == "glm4v_text"


def part(module, name):
    """Return a part that only some models have, or one that changes nothing."""
    return getattr(module, name, torch.nn.Identity())


def attention_of(q, k, readable):
    """Return softmax attention [H, S, S] to the readable columns, 0 in rows that see none."""
    length, hd = q.shape[1:]
    allowed = torch.ones(length, length, dtype=torch.bool).tril() & readable[None, :]
    scores = (q @ k.transpose(1, 2)) / hd**0.5
    weights = torch.softmax(scores.masked_fill(~allowed, -torch.inf).float(), -1)
    return torch.nan_to_num(weights, nan=0.0), allowed


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


def masked_forward(model, x, rank, counts, positions, inside=None, added=()):
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
        added: By layer, what it adds to all visual tokens behind its operations, [N, D].
    """
    inside, weights = inside or {}, None
    text = model.model.language_model
    is_text = rank == TEXT
    length = len(rank)
    turned, neighbours = angles(text, positions), rotates_neighbours(text)
    for number, (layer, (n_q, n_kv, n_mlp)) in enumerate(zip(text.layers, counts, strict=True)):
        attn = layer.self_attn
        hd = attn.head_dim
        # In a batch of one: quantisers give each token a scale of its own only in a batch.
        h = layer.input_layernorm(x)[None]
        q = part(attn, "q_norm")(attn.q_proj(h).view(length, -1, hd)).transpose(0, 1)
        k = part(attn, "k_norm")(attn.k_proj(h).view(length, -1, hd)).transpose(0, 1)
        q, k = rotate(q, turned, neighbours), rotate(k, turned, neighbours)
        v = attn.v_proj(h).view(length, -1, hd).transpose(0, 1)
        k = k.repeat_interleave(q.shape[0] // k.shape[0], 0)
        v = v.repeat_interleave(q.shape[0] // v.shape[0], 0)
        if number in inside:
            back, score = inside[number]
            if back:
                pool = counts[number - 1][1]
            else:
                pool = survivors(counts, number, int((~is_text).sum()))
                weights, _ = attention_of(q, k, is_text | (rank < pool))
            tokens = [i for i, place in enumerate(rank.tolist()) if 0 <= place < pool]
            rank = reordered(rank, score(weights.tolist(), tokens) if tokens else [], pool)
        weights, allowed = attention_of(q, k, is_text | (rank < n_kv))
        weights = weights.to(v.dtype)
        mixed = attn.o_proj((weights @ v).transpose(0, 1).reshape(1, length, -1))[0]
        mixed = part(layer, "post_self_attn_layernorm")(mixed) * allowed.any(1)[:, None]
        x = torch.where((is_text | (rank < n_q))[:, None], x + mixed, x)
        update = layer.mlp(layer.post_attention_layernorm(x)[None])[0]
        update = part(layer, "post_mlp_layernorm")(update)
        x = torch.where((is_text | (rank < n_mlp))[:, None], x + update, x)
        if number < len(added):
            x[~is_text] += added[number]
    return functional.linear(text.norm(x), model.lm_head.weight)


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
    tokens, all_logits = [], []
    for _ in range(steps):
        logits = masked_forward(model, x, rank, counts, positions, inside, added)[-1]
        allowed = logits.clone()
        allowed[list(never)] = -torch.inf
        token = int(allowed.argmax())
        tokens.append(token)
        all_logits.append(logits)
        x = torch.cat([x, model.model.language_model.embed_tokens(torch.tensor([token]))])
        rank = torch.cat([rank, torch.tensor([TEXT])])
        positions = torch.cat([positions, positions[..., -1:] + 1], -1)
    return tokens, torch.stack(all_logits)
