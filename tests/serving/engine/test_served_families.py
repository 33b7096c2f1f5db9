"""Each family of the plug-in gives the answers of transformers to each prompt alone."""

import copy
import json
import random
from fractions import Fraction

import pytest

from opsearch import Policy, RankerSpec, builders
from tests.serving.engine.engines import TOKENS, ask, assert_equal, engine
from tests.support import tiny
from tests.support.families import FAMILIES
from tests.support.families.folder import WORDS, template, tokenizer
from tests.support.pictures import picture
from tests.support.served import Prompt, greedy, loaded
from training.trainer import name_tower

LAYERS = 6
# vLLM's attention on CPUs has heads of 32 and more.
WIDE = {
    "hidden_size": 128,
    "intermediate_size": 96,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
}
SIZES = [(24, 13), (12, 24), (24, 12), (24, 24), (40, 16), (16, 48), (30, 30), (60, 20)]
SETTINGS = {"max_model_len": 400, "max_num_seqs": 8, "max_num_batched_tokens": 23}
DIVPRUNE, RANDOM = RankerSpec("divprune"), RankerSpec("random", (("seed", 3),))
PERCENT = [(100, 100, 100), (60, 100, 80), (50, 70, 90), (25, 80, 0), (0, 40, 60), (0, 25, 0)]
POLICIES = {
    "identity": builders.identity(LAYERS),
    "tokens": builders.tokens(LAYERS, "1/3", DIVPRUNE),
    "tokens at random": builders.tokens(LAYERS, "1/2", RANDOM),
    "dop, keys stay": builders.dop(LAYERS, 2, 4, "1/2", DIVPRUNE, kv="stays"),
    "dop, keys leave": builders.dop(LAYERS, 3, 3, "3/5", RANDOM, kv="leaves"),
    "vtw": builders.vtw(LAYERS, 3),
    "depth": builders.depth(LAYERS, 2, 5, 4, "7/10", DIVPRUNE),
    "free": Policy(
        tuple(tuple(Fraction(share, 100) for share in triple) for triple in PERCENT),
        rankers=((0, RANDOM),),
    ),
}


@pytest.fixture(
    scope="module",
    params=["llava", "llava_next", "llava_onevision", "qwen2_5_vl", "qwen3_vl", "internvl"],
)
def folder(request, tmp_path_factory):
    """The family's tiny model and processor, in the form of its published checkpoints."""
    family, path = FAMILIES[request.param], tmp_path_factory.mktemp(request.param)
    narrow = family.model(1)
    config = copy.deepcopy(narrow.config)
    text = config.get_text_config()
    for name, value in WIDE.items():
        setattr(text, name, value)
    if hasattr(text, "layer_types"):
        text.layer_types = ["full_attention"] * LAYERS
    if hasattr(config.vision_config, "out_hidden_size"):
        config.vision_config.out_hidden_size = WIDE["hidden_size"]
    if "mrope_section" in text.rope_parameters:
        axes = {"mrope_section": [6, 5, 5], "mrope_interleaved": request.param == "qwen3_vl"}
        text.rope_parameters = dict(text.rope_parameters) | axes
    model = tiny.uneven_norms(tiny.made(type(narrow), config))
    model.save_pretrained(path)
    family.processor(tokenizer(), template(family.AROUND)).save_pretrained(path)
    if request.param == "qwen3_vl":
        _normalize_alike(path)
    if request.param.startswith("llava"):
        name_tower(path / "model.safetensors")
    return path


def _normalize_alike(path):
    """Normalize images as videos: vLLM has one normalization for both."""
    file = path / "processor_config.json"
    settings = json.loads(file.read_text())
    for name in ("image_mean", "image_std"):
        settings["image_processor"][name] = settings["video_processor"][name]
    file.write_text(json.dumps(settings))


@pytest.fixture(scope="module")
def images(folder):
    """Limits of a prompt: three images and, where the family takes videos, none of these."""
    kind = json.loads((folder / "config.json").read_text())["model_type"]
    videos = {} if kind in ("llava", "llava_next") else {"video": 0}
    return {"limit_mm_per_prompt": {"image": 3} | videos}


@pytest.fixture(scope="module")
def prompts(folder):
    """Questions about no image up to three, with text between most of them."""
    draw = random.Random(0)
    template = loaded(folder)[1].apply_chat_template
    return [_prompt([1, 2, 0, 1, 3, 1][i % 6], draw, template) for i in range(30)]


def _prompt(number, draw, template):
    parts, images = [_words(draw, 35)], []
    for left in reversed(range(number)):
        parts.append({"type": "image"})
        images.append(picture("RGB", draw.choice(SIZES), draw.randrange(6)))
        if not left or draw.random() < 0.7:
            parts.append(_words(draw, 6))
    messages = [{"role": "user", "content": parts}]
    return Prompt(template(messages, add_generation_prompt=True, tokenize=False), images)


def _words(draw, most):
    return {"type": "text", "text": " ".join(draw.choices(WORDS, k=draw.randint(1, most)))}


@pytest.mark.parametrize("name", POLICIES)
def test_each_family_answers_as_transformers(name, folder, images, prompts, tmp_path):
    """Thirty prompts, twice in one batch, cut into chunks of 23 rows of any requests."""
    expected = greedy(POLICIES[name], prompts, TOKENS, folder)
    assert len({tuple(token for token, _ in answer) for answer in expected}) > 20
    POLICIES[name].save_pretrained(tmp_path)
    with engine(tmp_path, model=folder, **SETTINGS, **images) as llm:
        found = ask(llm, [*prompts, *prompts])
    assert_equal(found, [*expected, *expected])


def test_each_family_without_a_policy_is_vllms_own(folder, images, prompts):
    """The same class serves both; without a policy nothing of it is prepared."""
    with engine(model=folder, enforce_eager=True, **SETTINGS, **images) as llm:
        found = ask(llm, prompts)
    assert_equal(found, greedy(builders.identity(LAYERS), prompts, TOKENS, folder))


@pytest.mark.parametrize("folder", ["llava", "qwen3_vl"], indirect=True)
def test_two_processes_share_the_heads(folder, images, prompts, tmp_path):
    """Each ranks, plans and checks itself alike, and holds half of the heads."""
    POLICIES["free"].save_pretrained(tmp_path)
    with engine(tmp_path, model=folder, tensor_parallel_size=2, **SETTINGS, **images) as llm:
        found = ask(llm, prompts)
    assert_equal(found, greedy(POLICIES["free"], prompts, TOKENS, folder))
