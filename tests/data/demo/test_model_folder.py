"""The demo checkpoint is an ordinary Hugging Face folder that loads silently, offline."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from transformers import AutoModelForImageTextToText, AutoProcessor

from opsearch.data.demo import MODEL_DIR
from opsearch.data.demo.generator import item
from opsearch.data.demo.vocabulary import TOKENS

QUESTION = "what color is the circle?"
PROMPT = ["<bos>", "user", *["<image>"] * 100, *QUESTION[:-1].split(), "?", "assistant"]
PICTURE = Image.new("RGB", (80, 80), "red")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Use one thread: with a model this small, several threads are slower on busy cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def processor() -> Any:
    return AutoProcessor.from_pretrained(MODEL_DIR)


@pytest.fixture(scope="module")
def model() -> Any:
    return AutoModelForImageTextToText.from_pretrained(MODEL_DIR, dtype=torch.float32).eval()


def chat(question: str, image: Image.Image | None = None) -> list[dict[str, Any]]:
    picture = {"type": "image"} if image is None else {"type": "image", "image": image}
    return [{"role": "user", "content": [picture, {"type": "text", "text": question}]}]


def encode(processor: Any, questions: list[str], images: list[Image.Image]) -> Any:
    chats = [chat(question) for question in questions]
    text = [processor.apply_chat_template(c, add_generation_prompt=True) for c in chats]
    return processor(text=text, images=images, return_tensors="pt", padding=True)


def words(ids: torch.Tensor) -> list[str]:
    return [TOKENS[i] for i in ids.tolist()]


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_loads_offline_without_a_word() -> None:
    done = run_python(
        "from transformers.utils import logging; logging.disable_progress_bar()\n"
        "from transformers import AutoModelForImageTextToText, AutoProcessor\n"
        "from opsearch.data.demo import MODEL_DIR\n"
        "AutoProcessor.from_pretrained(MODEL_DIR)\n"
        "AutoModelForImageTextToText.from_pretrained(MODEL_DIR)\n"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_import_is_light() -> None:
    done = run_python(
        "import sys, opsearch.data.demo, opsearch.data.embedded\n"
        "print([name for name in ('torch', 'transformers', 'sklearn') if name in sys.modules])\n"
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "[]", "")


def test_folder_fits_in_six_megabytes_and_names_no_place() -> None:
    files = list(MODEL_DIR.iterdir())
    assert sum(file.stat().st_size for file in files) <= 6_000_000
    for file in files:
        if file.suffix == ".json":
            text = file.read_text(encoding="utf-8")
            json.loads(text)
            assert not re.search(r'_name_or_path|"/[a-z]', text), file.name


def test_tensors_of_the_tower_have_the_names_that_vllm_loads() -> None:
    with safe_open(MODEL_DIR / "model.safetensors", "pt") as file:
        tower = [name for name in file.keys() if name.startswith("vision_tower.")]  # noqa: SIM118
    assert len(tower) > 30
    assert all(name.startswith("vision_tower.vision_model.") for name in tower)


def test_card_tells_the_number_of_parameters(model: Any) -> None:
    count = sum(p.numel() for p in model.parameters())
    assert f"{count:,} parameters" in (MODEL_DIR / "README.md").read_text(encoding="utf-8")


def test_prompt_has_exactly_these_tokens(processor: Any) -> None:
    inputs = encode(processor, [QUESTION], [PICTURE])
    assert words(inputs["input_ids"][0]) == PROMPT
    assert inputs["attention_mask"].all()


def test_one_step_chat_template_gives_the_same(processor: Any) -> None:
    twostep = encode(processor, [QUESTION], [PICTURE])
    onestep = processor.apply_chat_template(
        chat(QUESTION, PICTURE),
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    assert torch.equal(onestep["input_ids"], twostep["input_ids"])
    assert torch.equal(onestep["pixel_values"], twostep["pixel_values"])


def test_conversation_with_an_answer(processor: Any) -> None:
    answered = [*chat("what color is it?"), {"role": "assistant", "content": "red"}]
    text = processor.apply_chat_template(answered)
    assert text == "<bos> user <image> what color is it? assistant red <eos>"


def test_shorter_prompts_are_padded_on_the_left(processor: Any) -> None:
    inputs = encode(processor, [QUESTION, "how many red?"], [PICTURE, PICTURE])
    short = words(inputs["input_ids"][1])
    assert short[:3] == ["<pad>", "<pad>", "<bos>"]
    assert short[-1] == "assistant"
    assert inputs["attention_mask"][1].tolist() == [0] * 2 + [1] * (len(PROMPT) - 2)


def test_pixels_are_scaled_to_plus_minus_one(processor: Any) -> None:
    pixels = item("train", 0, 0).pixels
    values = encode(processor, [QUESTION], [Image.fromarray(pixels)])["pixel_values"][0]
    expected = pixels.transpose(2, 0, 1) / 127.5 - 1
    np.testing.assert_allclose(values.numpy(), expected, atol=1e-6)


def test_other_sizes_are_resized_whole(processor: Any) -> None:
    inputs = encode(processor, [QUESTION], [Image.new("RGB", (200, 123), "red")])
    assert words(inputs["input_ids"][0]) == PROMPT
    assert inputs["pixel_values"].shape == (1, 3, 80, 80)


def test_every_word_is_one_token_and_reads_well(processor: Any) -> None:
    tokenizer = processor.tokenizer
    assert tokenizer.convert_ids_to_tokens(list(range(128))) == list(TOKENS)
    for index, word in enumerate(TOKENS):
        assert tokenizer(word)["input_ids"] == [index]
        assert tokenizer.decode([index]) == word
    assert processor.batch_decode([[8, 2], [50, 2, 0]], skip_special_tokens=True) == ["red", "CAT"]
    assert tokenizer("zebra")["input_ids"] == [TOKENS.index("<unk>")]


def test_answers_are_right_and_end_by_themselves(processor: Any, model: Any) -> None:
    examples = [item("calibration", 0, index) for index in range(150)]
    right = 0
    for start in range(0, 150, 50):
        batch = examples[start : start + 50]
        images = [Image.fromarray(e.pixels) for e in batch]
        inputs = encode(processor, [e.question for e in batch], images)
        output = model.generate(**inputs)[:, inputs["input_ids"].shape[1] :]
        assert output.shape[1] == 2
        assert {TOKENS[i] for i in output[:, 1].tolist()} == {"<eos>"}
        answers = processor.batch_decode(output, skip_special_tokens=True)
        right += sum(a == e.answer for a, e in zip(answers, batch, strict=True))
    assert right / 150 >= 0.88


def test_batched_and_single_answers_agree(processor: Any, model: Any) -> None:
    examples = [item("held-out", 0, index) for index in range(6)]
    images = [Image.fromarray(e.pixels) for e in examples]
    questions = [e.question for e in examples]
    inputs = encode(processor, questions, images)
    together = model.generate(**inputs)[:, -2:]
    for row, question, image in zip(together, questions, images, strict=True):
        alone = model.generate(**encode(processor, [question], [image]))
        assert torch.equal(alone[0, -2:], row)


def test_folder_is_inside_of_the_package() -> None:
    import opsearch.data.demo

    assert MODEL_DIR.is_dir()
    assert MODEL_DIR.parent == Path(opsearch.data.demo.__file__).parent
