"""Training of the demo model: correct labels, and exact shortcuts."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from opsearch.data.demo import MODEL_DIR
from opsearch.data.demo.scene_shapes import ShapesScene
from opsearch.data.demo.vocabulary import COLORS, TOKENS
from tests.support.messages import naming
from training import model as llava
from training.batches import NAMES, SCENES, Batch, draw, mentioned, spread
from training.card import write_card
from training.evaluate import Score, measure
from training.optimiser import orthogonal
from training.options import Options, TrainingCost
from training.packing import PREFIX, PROMPT
from training.processes import ProcessGroup
from training.redundancy import OPERATIONS, RANKERS, SHARES, depth_needed
from training.schedule import FamilyWeights, TrainingSchedule
from training.things import NAMING, VISUAL, things
from training.trainer import Trainer, export, train

EVEN = [1.0] * len(NAMES)


@pytest.fixture(scope="module")
def batch() -> Batch:
    return draw(np.random.default_rng(3), 8, 10, EVEN)


def options(out: Path, steps: int) -> Options:
    schedule = TrainingSchedule(steps, vision=0.5, warm_up=1)
    return Options(out, None, 5, schedule, pictures=2, slots=2, compiled=False)


def test_packed_questions_get_the_logits_that_they_get_alone(batch: Batch) -> None:
    stock, packed = llava.load(MODEL_DIR).eval(), llava.load(MODEL_DIR).eval()
    llava.prepare(packed, compiled=False)
    with torch.no_grad():
        visual = llava.see(packed, batch.pixels)[1]
        states = llava.read(packed, visual, batch.tokens)
        logits = llava.logits(packed, llava.slots_of(states[-1], 10))
        for i in range(len(batch.pixels)):
            prefix = [TOKENS.index(word) for word in PROMPT] + [TOKENS.index("<image>")] * VISUAL
            ids = torch.cat([torch.tensor(prefix).expand(10, -1), batch.tokens[i]], 1)
            pixels = batch.pixels[i : i + 1].expand(10, -1, -1, -1)
            alone = stock(input_ids=ids, pixel_values=pixels).logits[:, PREFIX:]
            torch.testing.assert_close(logits[i], alone, atol=1e-4, rtol=1e-4)


def test_shipped_model_answers_what_is_trained_on(batch: Batch) -> None:
    model = llava.load(MODEL_DIR).eval()
    llava.prepare(model, compiled=False)
    with torch.no_grad():
        states = llava.read(model, llava.see(model, batch.pixels)[1], batch.tokens)
        logits = llava.logits(model, llava.slots_of(states[-1], 10))
    at = batch.asked[..., None, None].expand(-1, -1, 1, len(TOKENS))
    right = logits.gather(2, at).argmax(-1)[..., 0] == batch.answer
    assert right.float().mean() > 0.8


def test_slots_hold_question_answer_and_end(batch: Batch) -> None:
    for ids, asked, answer in zip(
        batch.tokens.flatten(0, 1), batch.asked.flatten(), batch.answer.flatten(), strict=True
    ):
        words = [TOKENS[i] for i in ids.tolist()]
        place = int(asked)
        assert words[place - 1 : place + 3] == ["?", "assistant", TOKENS[int(answer)], "<eos>"]
        assert set(words[place + 3 :]) <= {"<pad>"}


def test_labelled_tokens_have_the_colour_of_their_label(batch: Batch) -> None:
    """Middle pixels of labelled tokens are closer to the labelled colour than those of others."""
    pure = {"red": (1, -1, -1), "green": (-1, 1, -1), "blue": (-1, -1, 1)}
    pixels = batch.pixels.unfold(2, 8, 8).unfold(3, 8, 8)[..., 2:6, 2:6].mean((-1, -2))
    for color, direction in pure.items():
        labelled = batch.color.view(-1, 10, 10) == 1 + COLORS.index(color)
        seen = torch.einsum(
            "bcij,c->bij",
            pixels - pixels.mean(1, keepdim=True),
            torch.tensor(direction, dtype=torch.float32),
        )
        assert seen[labelled].mean() > seen[batch.color.view(-1, 10, 10) == 0].mean() + 0.2


def test_mentions_mean_the_things_that_bear_all_their_names() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        scene = ShapesScene.sample(rng, [])
        shown = things(scene)
        one = scene.shapes[0]
        question = f"is there a {one.color} {one.shape}?"
        refers, places = mentioned(question, shown, NAMING[ShapesScene])
        assert refers.nonzero()[0].tolist() == [4]
        same = [s for s in scene.shapes if (s.color, s.shape) == (one.color, one.shape)]
        assert set(places[4].nonzero()[0]) == {3 * s.row + s.column for s in same}


def test_spread_keeps_to_the_weights() -> None:
    drawn = spread(np.random.default_rng(0), [3.0, 1.0, 0.0], 40)
    assert [drawn.count(i) for i in range(3)] == [30, 10, 0]


def test_every_kind_of_scene_is_shown_whatever_the_weights() -> None:
    weights = [1.0 if name == "spatial" else 0.01 for name in NAMES]
    batch = draw(np.random.default_rng(1), 16, 2, weights)
    assert set(batch.scene.tolist()) == set(range(len(SCENES)))


def test_weak_families_are_asked_more_often() -> None:
    families = FamilyWeights()
    before = families.weights()[3]
    counts = torch.zeros(2, len(NAMES))
    counts[:, 3] = 100
    families.update(counts)
    assert families.weights()[3] < before


def test_orthogonal_flattens_singular_values() -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonal(torch.randn(3, 64, 16)))
    assert values.min() > 0.5
    assert values.max() < 1.5


def test_depth_needed() -> None:
    assert depth_needed([0.5, 0.96, 0.9, 0.97, 1.0]) == 3
    assert depth_needed([1.0, 1.0]) == 0


def test_an_exported_model_has_the_tensors_of_the_shipped_one(tmp_path: Path) -> None:
    """The names of a vision tower are not those that transformers writes."""
    model = llava.build(5)
    export(model, tmp_path)
    files = (folder / "model.safetensors" for folder in (tmp_path, MODEL_DIR))
    exported, shipped = map(load_file, files)
    assert {name: (t.shape, t.dtype) for name, t in exported.items()} == {
        name: (t.shape, t.dtype) for name, t in shipped.items()
    }
    again = llava.load(tmp_path).state_dict()
    assert all(torch.equal(t.float(), again[name]) for name, t in model.state_dict().items())


@pytest.mark.slow
def test_interrupted_training_ends_where_uninterrupted_training_does(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        folder.mkdir()
    train(options(whole, 4), ProcessGroup(0, 1))
    begun = Trainer(options(parts, 4), ProcessGroup(0, 1))
    for batch, _ in zip(begun.feed.batches(0), range(3), strict=False):
        begun.learn(batch)
    begun.save()
    train(options(parts, 4), ProcessGroup(0, 1))
    weights = [(f / "model" / "model.safetensors").read_bytes() for f in (whole, parts)]
    assert weights[0] == weights[1]
    assert set(measure(whole / "model", 15)) == set(NAMES)


def test_the_card_says_what_was_measured(tmp_path: Path) -> None:
    scores = {name: Score(0.9 + i / 200, 0.2, 1.0, 10, "what?") for i, name in enumerate(NAMES)}
    curve = {name: [0.1, 0.3, 0.9, 1.0] for name in (*NAMES, "mean")}
    needed = dict.fromkeys((*NAMES, "mean"), 2)
    study = {op: {"depth": needed, "accuracy": curve} for op in OPERATIONS}
    study |= {f"tokens by {name}": {s: {"mean": 0.5} for s in SHARES} for name in RANKERS}
    write_card(
        tmp_path,
        options(tmp_path, 10),
        TrainingCost(10, 20, 40, 60.0),
        scores,
        study | {"items": 7},
    )
    card = (tmp_path / "README.md").read_text()
    assert "| **all** | | **.935** | |" in card
    assert f"| {NAMES[2]} | what? | .91 | .20 |" in card
    assert "| kv | 10 | 30 | 90 |" in card
    assert f"| q |{' 2 |' * len(NAMES)}" in card
    assert re.search(naming(".50, .50, .50", "7 held-out samples"), card)
    assert re.search(naming("20 images", "40 questions", "10 steps"), card)
    assert re.search(naming("1 CPU minute", "seed 5"), card)
