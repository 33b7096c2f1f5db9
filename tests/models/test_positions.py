"""Prompts beyond the positions of a model are refused before anything runs."""

import json
import logging
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers import LlamaConfig, LlavaConfig, Qwen2Config

from opsearch import Item, load_model, measure_kl
from opsearch.commands.cli import call
from opsearch.data.demo import MODEL_DIR
from opsearch.data.embedded import embedded
from opsearch.errors import DataError
from opsearch.models.encoding import Sample, encode
from opsearch.models.loading import load_config, load_processor
from opsearch.models.positions import (
    check_positions,
    model_positions,
    prompt_positions,
    tokenizer_note,
)
from opsearch.policy import builders
from tests.support import tiny
from tests.support.families import qwen2_5_vl
from tests.support.messages import naming, refuses

POSITIONS, VISUAL, LAYERS = 256, 100, 12  # of the embedded model
CONFIG, PROCESSOR = load_config("demo"), load_processor("demo")
TOO_LONG = "what colour is the square " * 50


def item(number, question="what colour is the square"):
    picture = Image.fromarray(np.full((80, 80, 3), 20 * number % 256, np.uint8))
    return Item(f"item-{number}", question, ("red",), (picture,))


@pytest.fixture
def data(tmp_path):
    """Ten questions, each on a picture of its own; the fourth and the eighth are too long."""
    for n in range(10):
        Image.new("RGB", (80, 80), (n, n, n)).save(tmp_path / f"{n}.png")
    lines = [
        {"image": f"{n}.png", "id": f"q{n}", "answer": "red"}
        | {"question": TOO_LONG if n in (3, 7) else f"what is {n}"}
        for n in range(10)
    ]
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


@pytest.fixture(params=[10**30, 256, 200], ids=["no limit", "that of the model", "a lower one"])
def folder(request, tmp_path):
    """The embedded model, with another limit of its tokenizer."""
    copy = shutil.copytree(MODEL_DIR, tmp_path / "model")
    path = copy / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_max_length": request.param}))
    return copy


@pytest.mark.parametrize("command", ["run", "run --dry-run", "eval"])
def test_commands_name_the_first_item_the_limit_and_how_many(
    folder, data, tmp_path, capsys, caplog, command
):
    out = tmp_path / "out"
    options = [f"--data={data}", f"--model={folder}"]
    if command == "eval":
        out = builders.tokens(LAYERS, "1/2").save_pretrained(tmp_path / "policy")
        options.insert(0, str(out))
    else:
        options += ["--samples=6", "--heldout=4", "--budget=50%", f"--out={out}"]
    with caplog.at_level(logging.WARNING, "transformers"):
        assert call([*command.split(), *options]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert re.search(naming(VISUAL, "2 of 10"), said)
    assert re.search(r"item q[37] needs \d+ positions .* has 256 ", said)
    assert "loading" not in said
    assert not caplog.records
    if command != "eval":
        assert not out.exists()


def test_what_was_measured_stays(data, tmp_path, capsys):
    out = tmp_path / "out"
    options = ["--samples=2", "--heldout=0", "--space=tokens", "--n-v=.5", f"--out={out}"]
    assert call(["run", "--budget=60%", *options]) == 0
    stored = (out / "measurements.db").read_bytes()
    again = [*options[2:], f"--data={data}", "--samples=6", "--heldout=4"]
    assert call(["run", "--budget=60%", *again]) == 1
    assert (out / "measurements.db").read_bytes() == stored
    assert (out / "policy_config.json").exists()


def sample(tokens, name="long"):
    ids = torch.zeros(1, tokens, dtype=torch.long)
    return Sample(item(0), name, {"input_ids": ids}, VISUAL, tokens - VISUAL)


@given(st.integers(1, 80), st.integers(-3, 3), st.integers(2, 5))
def test_the_last_answer_token_is_no_input(new_tokens, over, count):
    length = POSITIONS - (new_tokens - 1) + over
    samples = [sample(VISUAL + 5)] * (count - 1) + [sample(length)]
    if over <= 0:
        check_positions(samples, CONFIG, new_tokens)
        return
    with refuses(DataError, POSITIONS + over, POSITIONS, f"1 of {count}"):
        check_positions(samples, CONFIG, new_tokens)


@pytest.mark.parametrize(("limit", "noted"), [(200, False), (199, True), (10**30, False)])
def test_a_lower_limit_of_the_tokenizer_is_noted(limit, noted):
    processor = SimpleNamespace(tokenizer=SimpleNamespace(model_max_length=limit))
    note = tokenizer_note([sample(20, "short"), sample(200)], processor)
    assert bool(note) == noted
    if note:
        assert re.search(naming("1 of 2", 199, 200, "model_max_length"), note)


def test_prompts_beyond_the_tokenizer_s_limit_are_encoded_with_one_note():
    processor, notes = load_processor("demo"), []
    processor.tokenizer.model_max_length = 100
    assert len(encode(embedded("calibration", 3), processor, CONFIG, say=notes.append)) == 3
    assert [re.search(naming("3 of 3", 100), note) is not None for note in notes] == [True]


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["generate", "POLICY", "--max-new-tokens=149"], "--max-new-tokens to 148"),
        (["bench", "POLICY", "--new-tokens=149"], "--new-tokens to 148"),
        (["run", "--positions=190", "--samples=2", "--heldout=0", "--out=RUN"], "--positions to"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_answers_count_and_the_option_that_sets_them_is_named(tmp_path, capsys, arguments, option):
    builders.tokens(LAYERS, "1/2").save_pretrained(tmp_path / "policy")
    paths = {"POLICY": tmp_path / "policy", "RUN": tmp_path / "run"}
    for name, path in paths.items():
        arguments = [argument.replace(name, str(path)) for argument in arguments]
    assert call(arguments) == 1
    assert option in " ".join(capsys.readouterr().err.split())


def test_held_out_answers_count(tmp_path, capsys):
    """A prompt that fits alone, but not with the answer that a run generates."""
    words = POSITIONS - encode([item(0, "what")], PROCESSOR, CONFIG)[0].n_other - VISUAL
    question = "what " * words
    (longest,) = encode([item(0, question)], PROCESSOR, CONFIG)
    assert POSITIONS - 15 < sum(longest.shape) <= POSITIONS
    for n in (5, 10):
        Image.new("RGB", (80, 80), (n, n, n)).save(tmp_path / f"{n}.png")
    path = tmp_path / "data.jsonl"
    lines = [{"image": f"{n}.png", "question": question[:-n], "answer": "a"} for n in (5, 10)]
    path.write_text("\n".join(map(json.dumps, lines)))
    options = [f"--data={path}", "--samples=1", "--budget=90%", "--dry-run"]
    assert call(["run", *options, "--heldout=0"]) == 0
    assert call(["run", *options, "--heldout=1"]) == 1
    assert re.search(naming(POSITIONS, "--answer-tokens"), capsys.readouterr().err)


def test_the_python_api_refuses_too():
    model, processor = load_model()
    few = [builders.tokens(LAYERS, "1/2")]
    with refuses(DataError, "item-1", POSITIONS):
        measure_kl(model, processor, [item(0), item(1, TOO_LONG)], few)
    with refuses(DataError, "item-0", POSITIONS, "positions to"):
        measure_kl(model, processor, [item(0)], few, positions=200)


def rotated(kind=Qwen2Config, **scaling):
    parameters = {"rope_theta": 1e4, **scaling}
    text = kind(**tiny.text(2) | {"max_position_embeddings": 1024, "rope_parameters": parameters})
    return LlavaConfig(text_config=text)


@pytest.mark.parametrize(
    ("scaling", "most"),
    [
        ({"rope_type": "default"}, 1024),
        ({"rope_type": "linear", "factor": 4.0}, 4096),
        ({"rope_type": "dynamic", "factor": 2.0}, 2048),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}, 4096),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256}, 1024),
        (
            {
                "rope_type": "llama3",
                "factor": 2.0,
                "original_max_position_embeddings": 128,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
            },
            1024,
        ),
    ],
    ids=lambda value: value["rope_type"] if isinstance(value, dict) else str(value),
)
def test_scaled_rotation_extends_the_positions(scaling, most):
    assert model_positions(rotated(**scaling)) == most
    assert model_positions(rotated(LlamaConfig, **scaling)) == most


def test_sliding_windows_are_no_limit_and_configs_may_name_none():
    text = SimpleNamespace(sliding_window=64, max_position_embeddings=1024)
    assert model_positions(SimpleNamespace(get_text_config=lambda: text)) == 1024
    assert model_positions(SimpleNamespace(get_text_config=SimpleNamespace)) is None


GRID = st.tuples(st.just(1), st.integers(1, 40).map(lambda n: 2 * n), st.integers(1, 9))


@pytest.fixture(scope="module")
def qwen():
    return qwen2_5_vl.model(1)


@given(runs=st.lists(st.tuples(st.integers(1, 9), GRID), max_size=3), end=st.integers(1, 9))
def test_positions_of_grids_are_those_of_the_model(qwen, runs, end):
    grids = [(t, height, 2 * width) for _, (t, height, width) in runs]
    ids = []
    for (before, _), (_, height, width) in zip(runs, grids, strict=True):
        ids += [8] * before + [tiny.IMAGE] * (height * width // 4)
    inputs = {"input_ids": torch.tensor([[*ids, *[8] * end]])}
    inputs["mm_token_type_ids"] = (inputs["input_ids"] == tiny.IMAGE).int()
    if grids:
        inputs["image_grid_thw"] = torch.tensor(grids)
    found, _ = qwen.model.get_rope_index(**inputs)
    visual = int(inputs["mm_token_type_ids"].sum())
    tokens = visual, inputs["input_ids"].shape[1] - visual
    assert prompt_positions(inputs, tokens, qwen.config) == int(found.max()) + 1
