"""Rankers as in their papers, in loops over lists, one tile of one sample at a time."""

import math

import numpy as np


def cosine(a, b):
    """Return the cosine rounded to 2^-18, so that ties are exact; 0 for a zero vector."""
    lengths = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(x * x for x in b))
    exact = sum(x * y for x, y in zip(a, b, strict=True)) / lengths if lengths else 0.0
    return round(exact * 2**18) / 2**18


def by_score(scores):
    return sorted(range(len(scores)), key=lambda i: (-scores[i], i))


def max_min(vectors, n):
    """Return DivPrune's n tokens in their order."""
    tokens = range(len(vectors))
    distance = [[1 - cosine(vectors[i], vectors[j]) for j in tokens] for i in tokens]
    chosen = []
    while len(chosen) < n:
        best, where = -math.inf, None
        for i in tokens:
            if i in chosen:
                continue
            others = chosen or [j for j in tokens if j != i]
            nearest = min((distance[i][j] for j in others), default=math.inf)
            if nearest > best:
                best, where = nearest, i
        chosen.append(where)
    return chosen


def vispruner(scores, features, n, important=0.5):
    """Return VisPruner's n tokens, the most attended first."""
    order = by_score(scores)
    attended, rest = order[: int(important * n)], order[int(important * n) :]
    while len(rest) > n - len(attended):
        a, b = rest[0::2], rest[1::2]
        most = [max((cosine(features[i], features[j]) for j in b), default=-2) for i in a]
        surplus = len(rest) - (n - len(attended))
        doomed = [a[k] for k in by_score(most)[: min(8, surplus)]]
        rest = [token for token in rest if token not in doomed]
    return attended + rest


def gains(vectors, relevance, chosen):
    """Return CDPruner's factor on the determinant for each token that is not chosen."""
    tokens = range(len(vectors))
    kernel = np.array(
        [
            [relevance[i] * cosine(vectors[i], vectors[j]) * relevance[j] for j in tokens]
            for i in tokens
        ]
    )

    def determinant(members):
        return np.linalg.det(kernel[np.ix_(members, members)]) if members else 1.0

    now = determinant(chosen)
    return {i: determinant([*chosen, i]) / now for i in tokens if i not in chosen}


def transported(vectors, chosen):
    """Return OTPrune's factor on the determinant for each token that is not chosen."""
    tokens = range(len(vectors))
    similarity = np.array([[cosine(vectors[i], vectors[j]) for j in tokens] for i in tokens])
    kernel = np.eye(len(vectors)) + 0.01 * similarity @ similarity.T
    now = np.linalg.det(kernel[np.ix_(chosen, chosen)]) if chosen else 1.0
    return {
        i: np.linalg.det(kernel[np.ix_([*chosen, i], [*chosen, i])]) / now
        for i in tokens
        if i not in chosen
    }


def coverage(features, embeds, words, chosen, text=1):
    """Return MMTok's gain in coverage for each token that is not chosen."""
    tokens = range(len(features))

    def covers(similarities, temperature):
        weights = [math.exp((each - max(similarities)) / temperature) for each in similarities]
        return [weight / sum(weights) for weight in weights]

    of_words = [covers([cosine(word, token) for token in embeds], 0.02) for word in words]
    of_tokens = [covers([cosine(target, token) for token in features], 0.2) for target in features]

    def worth(members):
        def covered(targets):
            best = [max((row[i] for i in members), default=0.0) for row in targets]
            return mean(best) if best else 0.0

        return text * covered(of_words) + covered(of_tokens) / 2

    return {i: worth([*chosen, i]) - worth(chosen) for i in tokens if i not in chosen}


def greedily(gains, n):
    """Return n tokens in the order in which each gains most; `gains` takes the chosen ones."""
    chosen = []
    while len(chosen) < n:
        found = gains(chosen)
        chosen.append(max(found, key=found.get))
    return chosen


def evs(vectors, step):
    """Return all tokens in EVS's order: first frames, evenly spread, then by change."""
    first = [i for i, back in enumerate(step) if not back]
    bits = len(format(len(first) - 1, "b"))
    spread = sorted(range(len(first)), key=lambda k: format(k, f"0{bits}b")[::-1])
    later = [i for i, back in enumerate(step) if back]
    later.sort(key=lambda i: (cosine(vectors[i], vectors[i - step[i]]), i))
    return [first[k] for k in spread] + later


def shares(sizes, n):
    """Return each tile's number of n tokens, given one by one to the tile with the largest gap."""
    kept = [0] * len(sizes)
    for _ in range(n):
        free = [tile for tile, size in enumerate(sizes) if kept[tile] < size]
        kept[min(free, key=lambda tile: ((kept[tile] + 0.5) / sizes[tile], tile))] += 1
    return kept


def of_last_row(attention, tokens, last):
    """Return the scores of FastV and PyramidDrop; attention: [head][row][column]."""
    return [mean([head[last][token] for head in attention]) for token in tokens]


def raters(embeds, visual, words):
    """Return SparseVLM's raters: words with more than average relevance to the visual tokens."""
    shares = []
    for token in visual:
        products = [
            sum(x * y for x, y in zip(embeds[token], embeds[w], strict=True)) for w in words
        ]
        weights = [math.exp(product - max(products)) for product in products]
        shares.append([weight / sum(weights) for weight in weights])
    relevance = [mean([row[i] for row in shares]) for i in range(len(words))]
    found = [w for w, value in zip(words, relevance, strict=True) if value > mean(relevance)]
    return found or words


def sparsevlm(attention, tokens, rating, share=1):
    """Return SparseVLM's scores: the mean over the heads that attend to the tokens most."""
    masses = [sum(head[row][token] for row in rating for token in tokens) for head in attention]
    number = max(1, math.floor(share * len(attention) + 1 / 2))
    chosen = [attention[head] for head in by_score(masses)[:number]]
    return [mean([head[row][token] for head in chosen for row in rating]) for token in tokens]


def fitprune(attention, tokens, words):
    """Return FitPrune's scores: maximum over heads, attention from words times from tokens."""

    def mass(rows, token):
        return sum(max(head[row][token] for head in attention) for row in rows) / len(rows)

    return [mass(words, token) * mass(tokens, token) for token in tokens]


def mean(values):
    return sum(values) / len(values)
