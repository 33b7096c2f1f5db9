"""Which rankers take part in a comparison, each as a way to keep the first tokens of its order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from opsearch.models.families import family_for
from opsearch.policy.ranker import RankerSpec, parse_ranker
from opsearch.progress import Stages
from opsearch.rankers import make_ranker


def asked_rankers(texts: Sequence[str], model_config: Any) -> tuple[RankerSpec, ...]:
    """Those asked for by name; PolicyError or ModelError for one that the model cannot serve."""
    specs = tuple(map(parse_ranker, texts))
    for spec in specs:
        family_for(model_config.model_type).check_needs(model_config, make_ranker(spec).needs)
    return specs


def say_left_out(model_config: Any, present: Sequence[RankerSpec], stages: Stages) -> None:
    """Say why each built-in ranker that the model cannot serve is missing, unless it is present."""
    names = {spec.name for spec in present}
    for name, reason in (
        family_for(model_config.model_type).unsupported_rankers(model_config).items()
    ):
        if name not in names:
            stages.say(f"tokens {name} is not compared: {reason}")
