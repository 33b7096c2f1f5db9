"""The fifteen families of questions by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from numpy.random import Generator

from opsearch.data.demo import scene_chart, scene_digits, scene_shapes, scene_text
from opsearch.data.demo.scene import Question, Scene


@dataclass(frozen=True)
class QuestionFamily:
    """A family of questions and the kind of scene that it is about.

    Attributes:
        scene: The kind of scene.
        ask: Returns a question about a scene, None where it allows none.
    """

    scene: type[Scene]
    ask: Callable[[Any, Generator], Question | None]


FAMILIES: dict[str, QuestionFamily] = {
    "color": QuestionFamily(scene_shapes.ShapesScene, scene_shapes.color),
    "shape": QuestionFamily(scene_shapes.ShapesScene, scene_shapes.shape),
    "exist": QuestionFamily(scene_shapes.ShapesScene, scene_shapes.exist),
    "count": QuestionFamily(scene_shapes.ShapesScene, scene_shapes.count),
    "spatial": QuestionFamily(scene_shapes.ShapesScene, scene_shapes.spatial),
    "relation": QuestionFamily(scene_shapes.ShapesScene, scene_shapes.relation),
    "digit_color": QuestionFamily(scene_digits.DigitsScene, scene_digits.digit_color),
    "digit_pos": QuestionFamily(scene_digits.DigitsScene, scene_digits.digit_pos),
    "digit_max": QuestionFamily(scene_digits.DigitsScene, scene_digits.digit_max),
    "digit_cmp": QuestionFamily(scene_digits.DigitsScene, scene_digits.digit_cmp),
    "bar_tall": QuestionFamily(scene_chart.ChartScene, scene_chart.bar_tall),
    "bar_value": QuestionFamily(scene_chart.ChartScene, scene_chart.bar_value),
    "bar_cmp": QuestionFamily(scene_chart.ChartScene, scene_chart.bar_cmp),
    "letter": QuestionFamily(scene_text.TextScene, scene_text.letter),
    "word": QuestionFamily(scene_text.TextScene, scene_text.word),
}
