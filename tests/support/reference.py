"""The slow masked model that judges the runtime: one sample at a time, full size, plain loops.

It shares no code with the package: it reads the weights, computes every row of every layer and only
masks what a policy prunes. Operations are kept where a token's rank is below the count.
"""

import torch
from torch.nn import functional

TEXT = -1
IMAGES = ("image_sizes", "image_grid_thw", "batch_num_images")
VIDEOS = ("video_grid_thw",)


def image_features(model, inputs):
    """Features of all visual tokens of a batch, in their order, as the stock model makes them."""
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
    """Which positions hold visual tokens."""
    tokens = (getattr(model.config, f"{kind}_token_id", -1) for kind in ("image", "video"))
    return sum(ids == token for token in tokens).bool()


def embed(model, ids, features):
    """Input embeddings of one sample [S, D] and which positions are visual [S]."""
    visual = is_visual(model, ids)
    x = model.model.language_model.embed_tokens(ids).clone()
    x[visual] = features.to(x.dtype)
    return x, visual


def angles(text, positions):
    """cos and sin [S, hd] at positions [S], or [3, S] where each dimension has its frequencies."""
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
    """Softmax attention [H, S, S] to the columns that can be read, 0 in rows that see none."""
    length, hd = q.shape[1:]
    allowed = torch.ones(length, length, dtype=torch.bool).tril() & readable[None, :]
    scores = (q @ k.transpose(1, 2)) / hd**0.5
    weights = torch.softmax(scores.masked_fill(~allowed, -torch.inf).float(), -1)
    return torch.nan_to_num(weights, nan=0.0), allowed


def reordered(rank, scores, pool):
    """The first `pool` places of a ranking given anew by falling score, earlier tokens first."""
    tokens = [i for i, place in enumerate(rank.tolist()) if 0 <= place < pool]
    order = sorted(tokens, key=lambda i: (-scores[tokens.index(i)], i))
    rank = rank.clone()
    for place, token in enumerate(order):
        rank[token] = place
    return rank


def survivors(counts, layer, n):
    """Tokens that the layer before updates, or that this one or a later one processes."""
    if layer == 0:
        return n
    n_q, _, n_mlp = counts[layer - 1]
    return max(n_q, n_mlp, *(count for triple in counts[layer:] for count in triple))


def masked_forward(model, x, rank, counts, positions, inside=None):
    """Logits [S, V] of one sample.

    x: [S, D] embeddings; rank: [S], TEXT at text; counts: [L][3] of (q, kv, mlp);
    positions: [S] or, of time, height and width, [3, S]; inside: by layer, rankers that act before
    it: how many layers back the attention is that they read, and a function that gives their scores
    from attention [H][S][S] and visual tokens.
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
    """Ranks by falling score on visual positions, TEXT elsewhere; ties: earlier first."""
    rank = torch.full(visual.shape, TEXT)
    places = visual.nonzero().flatten().tolist()
    order = sorted(range(len(places)), key=lambda i: (-float(scores[i]), i))
    for r, i in enumerate(order):
        rank[places[i]] = r
    return rank


def greedy(model, x, rank, counts, positions, steps, never=(), inside=None):
    """Tokens and logits of greedy decoding by recomputing everything for each token.

    never: tokens that are not chosen, however likely.
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
