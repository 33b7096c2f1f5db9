"""Slow masked reference model: one sample at a time, full size, plain loops.

It shares no code with the package: it reads the weights, computes every row of every layer and only
masks what a policy prunes. Operations are kept where a token's rank is below the count.
"""

import torch
from torch.nn import functional

TEXT = -1
IMAGES = ("image_sizes", "image_grid_thw", "batch_num_images")
VIDEOS = ("video_grid_thw",)


def image_features(model, inputs):
    """Return the stock model's features of all visual tokens of a batch, in prompt order."""
    encoders = {
        "pixel_values": (model.model.get_image_features, IMAGES),
        "pixel_values_videos": (getattr(model.model, "get_video_features", None), VIDEOS),
    }
    parts = [torch.zeros(0, model.config.get_text_config().hidden_size)]
    for pixels, (encode, names) in encoders.items():
        if pixels in inputs:
            given = {name: inputs[name] for name in (pixels, *names) if name in inputs}
            parts += list(encode(**given, return_dict=True).pooler_output)
    return torch.cat(parts)


def is_visual(model, ids):
    """Return a mask of the visual positions."""
    tokens = (getattr(model.config, f"{kind}_token_id", -1) for kind in ("image", "video"))
    return sum(ids == token for token in tokens).bool()


def embed(model, ids, features):
    """Return the input embeddings of one sample [S, D] and a mask of its visual positions [S]."""
    visual = is_visual(model, ids)
    x = model.model.language_model.embed_tokens(ids).clone()
    x[visual] = features.to(x.dtype)
    return x, visual


def angles(text, positions):
    """Return cos and sin [S, hd] at positions [S], or [3, S] for time, height and width."""
    inverse = text.rotary_emb.inv_freq.float()
    turned = positions[..., None].float() * inverse
    if positions.ndim == 2:
        sections = text.config.rope_parameters["mrope_section"]
        parts = [part.split(sections, -1)[i] for i, part in enumerate(turned)]
        turned = torch.cat(parts, -1)
    both = torch.cat([turned, turned], -1)
    return both.cos(), both.sin()


def rotate(x, cos, sin):
    half = x.shape[-1] // 2
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin


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


def masked_forward(model, x, rank, counts, positions, inside=None):
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
    """
    inside, weights = inside or {}, None
    text = model.model.language_model
    is_text = rank == TEXT
    length = len(rank)
    cos, sin = angles(text, positions)
    for number, (layer, (n_q, n_kv, n_mlp)) in enumerate(zip(text.layers, counts, strict=True)):
        attn = layer.self_attn
        hd = attn.head_dim
        # In a batch of one: quantisers give each token a scale of its own only in a batch.
        h = layer.input_layernorm(x)[None]
        q = rotate(attn.q_proj(h).view(length, -1, hd).transpose(0, 1), cos, sin)
        k = rotate(attn.k_proj(h).view(length, -1, hd).transpose(0, 1), cos, sin)
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
        mixed = mixed * allowed.any(1)[:, None]
        x = torch.where((is_text | (rank < n_q))[:, None], x + mixed, x)
        update = layer.mlp(layer.post_attention_layernorm(x)[None])[0]
        x = torch.where((is_text | (rank < n_mlp))[:, None], x + update, x)
    return functional.linear(text.norm(x), model.lm_head.weight)


def rank_by(scores, visual):
    """Rank visual positions by descending score, TEXT elsewhere; ties by position."""
    rank = torch.full(visual.shape, TEXT)
    places = visual.nonzero().flatten().tolist()
    order = sorted(range(len(places)), key=lambda i: (-float(scores[i]), i))
    for r, i in enumerate(order):
        rank[places[i]] = r
    return rank


def greedy(model, x, rank, counts, positions, steps, never=(), inside=None):
    """Return tokens and logits of greedy decoding that recomputes everything for each token.

    Tokens in `never` are not chosen.
    """
    tokens, all_logits = [], []
    for _ in range(steps):
        logits = masked_forward(model, x, rank, counts, positions, inside)[-1]
        allowed = logits.clone()
        allowed[list(never)] = -torch.inf
        token = int(allowed.argmax())
        tokens.append(token)
        all_logits.append(logits)
        x = torch.cat([x, model.model.language_model.embed_tokens(torch.tensor([token]))])
        rank = torch.cat([rank, torch.tensor([TEXT])])
        positions = torch.cat([positions, positions[..., -1:] + 1], -1)
    return tokens, torch.stack(all_logits)
