"""Packing of many questions about one picture into one sequence, without interaction.

A sequence is the prefix (`<bos> user` and the visual tokens) and then slots of SLOT tokens, one for
each question. A slot attends to the prefix and itself, and its positions continue from the prefix:
to the model, every slot is a prompt of its own. The picture is thus computed once for all its
questions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from opsearch.data.demo.vocabulary import TOKENS
from training.things import VISUAL

IDS = {word: index for index, word in enumerate(TOKENS)}
PROMPT = ("<bos>", "user")
PREFIX = len(PROMPT) + VISUAL
SLOT = 12
"""Tokens of a slot: the longest question has eight words, then "?", "assistant", answer, <eos>."""


def words_of(question: str) -> list[str]:
    """Split a question into the words of the vocabulary, "?" last."""
    return [*question.removesuffix("?").split(), "?"]


def fill_slot(question: str, answer: str) -> tuple[list[int], int]:
    """Return the token ids of a slot, and the position that predicts the answer."""
    words = [*words_of(question), "assistant", answer, "<eos>"]
    ids = [IDS[word] for word in words] + [IDS["<pad>"]] * (SLOT - len(words))
    return ids, len(words) - 3


def positions(slots: int) -> Tensor:
    """Return the position of every token in a sequence with this number of slots, int64[1, T]."""
    slot = torch.arange(PREFIX, PREFIX + SLOT).repeat(slots)
    return torch.cat([torch.arange(PREFIX), slot])[None]
