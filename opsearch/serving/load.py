"""Loads of an engine: requests one at a time, all at once, and at random times."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from time import perf_counter

from opsearch.serving.engines import Answer, Engine, Question


async def all_at_once(
    engine: Engine, questions: Sequence[Question], tokens: int
) -> tuple[float, list[Answer]]:
    """Return the seconds until all questions are answered, and the answers.

    Args:
        engine: The engine.
        questions: The questions.
        tokens: Number of tokens of each answer.
    """
    start = perf_counter()
    answers = await asyncio.gather(*(engine.answer(each, tokens) for each in questions))
    return perf_counter() - start, answers


async def arriving(
    engine: Engine, questions: Sequence[Question], tokens: int, rate: float, seed: int
) -> list[Answer]:
    """Return the answers to questions that arrive at random, as a Poisson process.

    Args:
        engine: The engine.
        questions: The questions.
        tokens: Number of tokens of each answer.
        rate: Mean number of questions per second.
        seed: Seed of the times of arrival.
    """
    draw = random.Random(seed)
    asked = []
    for question in questions:
        asked.append(asyncio.create_task(engine.answer(question, tokens)))
        await asyncio.sleep(draw.expovariate(rate))
    return list(await asyncio.gather(*asked))
