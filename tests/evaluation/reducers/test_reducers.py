"""Reducers against literal loops, and their outputs as model inputs."""

import json
import math
import re

import pytest
import torch
from PIL import Image

from opsearch.costs.base import SampleSize
from opsearch.data.embedded import embedded
from opsearch.data.files import load_jsonl
from opsearch.data.item import Item
from opsearch.errors import ModelError
from opsearch.evaluation.reducers import Reduction, largest_reduction, usable_reducers
from opsearch.evaluation.reducers.pool import Pool, coarse_grid, pooled
from opsearch.evaluation.reducers.resize import Resize
from opsearch.models.encoding import Sample, batch_inputs, encode
from opsearch.models.families import family_for
from opsearch.models.loading import load_config, load_processor, load_weights
from tests.support import tiny
from tests.support.families import FAMILIES, WITH_PROCESSOR, internvl, qwen2_5_vl
from tests.support.families.folder import save
from tests.support.messages import naming, refuses


def literal_pool(grid, height, width):
    """Return the means of the patches that touch each cell of a coarse grid, row by row."""
    rows, columns = len(grid), len(grid[0])
    found = []
    for i in range(height):
        for j in range(width):
            total, count = 0.0, 0
            for y in range(rows):
                for x in range(columns):
                    down = i * rows < (y + 1) * height and (i + 1) * rows > y * height
                    right = j * columns < (x + 1) * width and (j + 1) * columns > x * width
                    if down and right:
                        total, count = total + grid[y][x], count + 1
            found.append(total / count)
    return found


@pytest.mark.parametrize("side", [1, 2, 3, 10])
@pytest.mark.parametrize("tokens", [1, 2, 3, 5, 12, 64, 99, 9999])
def test_pooling_is_the_mean_of_what_a_cell_touches(side, tokens):
    generator = torch.Generator().manual_seed(side * 10_000 + tokens)
    features = torch.rand(2, side * side, 2, generator=generator, dtype=torch.float64)
    height, width = coarse_grid(tokens, side * side)
    result = pooled(features, tokens)
    assert result.shape == (2, height * width, 2)
    for picture in range(2):
        for feature in range(2):
            grid = features[picture, :, feature].view(side, side).tolist()
            wanted = torch.tensor(literal_pool(grid, height, width), dtype=torch.float64)
            torch.testing.assert_close(result[picture, :, feature], wanted)


@pytest.mark.parametrize("side", [1, 2, 3, 10, 24])
def test_a_coarse_grid_uses_up_the_tokens_and_grows_with_them(side):
    before = 0
    for tokens in range(1, side * side + 5):
        height, width = coarse_grid(tokens, side * side)
        most = max(
            h * w for h in range(side + 1) for w in range(side + 1) if h * w <= min(tokens, side**2)
        )
        assert width <= height <= side
        assert 0.95 * most <= height * width <= most
        assert height * width >= before
        before = height * width
    assert before == side * side


@pytest.mark.parametrize(
    ("tokens", "grid"),
    [(144, (12, 12)), (138, (12, 11)), (130, (13, 10)), (48, (8, 6)), (14, (7, 2)), (2, (2, 1))],
)
def test_a_coarse_grid_is_nearly_a_square(tokens, grid):
    assert coarse_grid(tokens, 576) == grid


def test_pooling_to_all_tokens_changes_nothing():
    features = torch.rand(1, 100, 4)
    torch.testing.assert_close(pooled(features, 100), features)


@pytest.fixture(scope="module")
def demo():
    """Return the embedded model, its config and processor, and samples."""
    config, processor = load_config("demo"), load_processor("demo")
    return load_weights("demo"), config, processor, encode(embedded("train", 3), processor, config)


@torch.no_grad()
def logits(model, sample):
    inputs = batch_inputs([sample], model.device)
    return model(**inputs, use_cache=False, logits_to_keep=1).logits


@pytest.mark.parametrize("tokens", [30, 1])
def test_the_model_takes_what_pooling_makes(demo, tokens):
    """Its logits equal those for the means given as embeddings."""
    model, config, processor, samples = demo
    pool = Pool(config, processor)
    for sample, small in zip(samples, pool.reduced(samples, tokens), strict=True):
        assert (small.n_visual, small.n_other) == (tokens, sample.n_other)
        assert small.digest == sample.digest
        with pool.applied(model, tokens):
            found = logits(model, small)
        with torch.no_grad():
            pixels = sample.inputs["pixel_values"]
            features = torch.stack(model.model.get_image_features(pixels).pooler_output)
            embeds = model.get_input_embeddings()(sample.inputs["input_ids"])[0]
        image = (sample.inputs["input_ids"][0] == config.image_token_id).nonzero()[:, 0]
        parts = [embeds[: image[0]], pooled(features, tokens)[0], embeds[image[-1] + 1 :]]
        with torch.no_grad():
            wanted = model(inputs_embeds=torch.cat(parts)[None], logits_to_keep=1).logits
        torch.testing.assert_close(found, wanted)
    assert not model.model.multi_modal_projector._forward_hooks


def test_all_tokens_pooled_are_the_original(demo):
    model, config, processor, samples = demo
    pool = Pool(config, processor)
    (small,) = pool.reduced(samples[:1], 100)
    assert small.shape == samples[0].shape
    with pool.applied(model, 100):
        torch.testing.assert_close(logits(model, small), logits(model, samples[0]))


def test_each_tile_is_pooled_alone():
    """Tiles of 2 x 2 tokens: an image of two tiles, text, an image of one."""
    model = internvl.model(2)
    ids = torch.tensor([[1, *[tiny.IMAGE] * 8, 9, *[tiny.IMAGE] * 4, 10]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    inputs["pixel_values"] = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    sample = Sample(Item("x", "question", (), (), "family"), "digest", inputs, 12, 3)
    pool = Pool(model.config, None)
    (small,) = pool.reduced([sample], 2)
    assert small.inputs["input_ids"].tolist() == [[1, *[tiny.IMAGE] * 4, 9, *[tiny.IMAGE] * 2, 10]]
    with pool.applied(model, 2):
        assert torch.isfinite(logits(model, small)).all()


def test_a_question_without_a_picture_stays_as_it_is(demo):
    _, config, processor, samples = demo
    ids = torch.tensor([[1, 9, 10]])
    plain = Sample(samples[0].item, "digest", {"input_ids": ids}, 0, 3)
    assert Pool(config, processor).reduced([plain], 4) == [plain]


def test_the_largest_reduction_that_fits(demo):
    _, config, processor, samples = demo
    pool = Pool(config, processor)
    asked = []

    def fits(left):
        asked.append(left)
        return sum(size.n_visual for size in left) <= 3 * 37

    found = largest_reduction("pool", pool, samples, fits)
    assert found.n_visual == (36, 36, 36)  # 6 x 6; 7 x 6 are too many
    assert len(asked) < 10
    assert found.image_flops == tuple(sample.image_flops for sample in samples)
    flops = samples[0].image_flops
    assert found.sizes([5, 6, 7]) == [SampleSize(36, n, flops) for n in (5, 6, 7)]
    assert largest_reduction("pool", pool, samples, lambda left: False) is None
    assert Reduction.parse(found.text) == found
    assert Reduction.parse(json.dumps({"counts": []})) is None


def test_who_cannot_be_reduced_is_refused():
    reducers, (sentence,) = usable_reducers(load_config("demo"), None)
    assert list(reducers) == ["pool"]
    assert re.search(naming("resize", "'llava'", "qwen2_5_vl"), sentence)
    with refuses(ModelError, "pool", "'qwen2_5_vl'", "internvl", "llava"):
        Pool(qwen2_5_vl.model(1).config, None)


OF_ANY_SIZE = [
    each
    for each in WITH_PROCESSOR
    if (lever := family_for(each.values[0]).lever) and lever.counts_tokens
]


def literal_tokens(width, height, tokens):
    """Return an image's tokens by Qwen-VL's rule: multiples of 8 pixels, within the limit."""
    rows, columns = max(8, round(height / 8) * 8), max(8, round(width / 8) * 8)
    if rows * columns > tokens * 64:
        shrink = math.sqrt(height * width / (tokens * 64))
        rows = max(8, math.floor(height / shrink / 8) * 8)
        columns = max(8, math.floor(width / shrink / 8) * 8)
    return rows // 8 * (columns // 8)


@pytest.mark.parametrize("tokens", [1, 3, 4, 9])
@pytest.mark.parametrize("family", OF_ANY_SIZE)
def test_resizing_makes_as_many_tokens_as_the_rule_says(tmp_path, family, tokens):
    save(FAMILIES[family], tmp_path / "model")
    sizes = [(24, 13), (24, 24), (12, 24)]
    lines = []
    for i, size in enumerate(sizes):
        Image.new("RGB", size, (40 * i, 9, 9)).save(tmp_path / f"{i}.png")
        lines.append(json.dumps({"image": f"{i}.png", "question": "what is it", "answer": "red"}))
    (tmp_path / "data.jsonl").write_text("\n".join(lines))
    name = str(tmp_path / "model")
    config, processor = load_config(name), load_processor(name)
    samples = encode(load_jsonl(tmp_path / "data.jsonl"), processor, config)
    resize = Resize(config, processor)
    small = resize.reduced(samples, tokens)
    assert [s.n_visual for s in small] == [literal_tokens(*size, tokens) for size in sizes]
    assert [s.digest for s in small] == [s.digest for s in samples]
    # The processor itself is unchanged.
    assert resize.reduced(samples, 9)[0].n_visual == samples[0].n_visual
    model = load_weights(name)
    with resize.applied(model, tokens):
        assert torch.isfinite(logits(model, small[0])).all()
