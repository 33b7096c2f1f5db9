"""Digests of processors and samples: every setting that counts, the same in every process."""

import copy
import json
import os
import shutil
import subprocess
import sys
from collections import OrderedDict
from dataclasses import replace
from enum import Enum, IntEnum
from functools import partial
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tokenizers import AddedToken, Tokenizer
from transformers import BertTokenizerLegacy

from opsearch.data.demo import MODEL_DIR
from opsearch.data.embedded import embedded
from opsearch.data.item import Item
from opsearch.models.digests import processor_digest, settings_digest, tensor_digest
from opsearch.models.encoding import encode, sample_digest
from opsearch.models.loading import load_config, load_processor
from tests.support.families import FAMILIES, PILLOW_ONLY, WITH_PROCESSOR, built, folder

ITEM = Item("a", "what colour is it", ("red",), (Image.radial_gradient("L").resize((48, 31)),))


def processor(name):
    if name == "demo":
        return load_processor("demo")
    family = FAMILIES[name]
    return family.processor(folder.tokenizer(), folder.template(family.AROUND))


def config(name):
    return load_config("demo") if name == "demo" else built(name, 3).config


ALL_DIGESTS = """
import json, sys
import tests.conftest
from tests.models.test_digests import processor, processor_digest, load_processor
digests = {name: processor_digest(processor(name)) for name in sys.argv[2:]}
print(json.dumps(digests | {"demo": processor_digest(load_processor(sys.argv[1]))}))
"""


@pytest.mark.slow
def test_equal_processors_have_equal_digests_in_every_process_and_folder(tmp_path):
    copied = shutil.copytree(MODEL_DIR, tmp_path / "elsewhere", copy_function=shutil.copyfile)
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    known = [*FAMILIES] if find_spec("torchvision") else [*PILLOW_ONLY]
    command = [sys.executable, "-c", ALL_DIGESTS, str(copied), *known]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    here = {name: processor_digest(processor(name)) for name in (*known, "demo")}
    assert json.loads(said.stdout) == here
    del here["vipllava"]  # has LLaVA's processor
    assert len(set(here.values())) == len(here)


def changed(value):
    """Yield other values that an attribute may take."""
    if isinstance(value, Enum):
        yield from (each for each in type(value) if each is not value)
    elif isinstance(value, bool):
        yield not value
    elif isinstance(value, int | float):
        yield from (value * 2, value + 1, value - 1, value / 3)
    elif isinstance(value, str):
        yield from ("full", "default", value + " is")
    elif isinstance(value, tuple | list) and value:
        yield type(value)(2 * each for each in value) if isinstance(value[0], float) else value[:1]
    elif hasattr(value, "height") and value.height:
        yield {"height": 2 * value.height, "width": 2 * value.width}
    elif hasattr(value, "shortest_edge") and value.shortest_edge:
        yield {"shortest_edge": value.shortest_edge // 2, "longest_edge": value.longest_edge}
    elif value is None:
        yield from (True, False)


def encoded(part, name):
    return encode([ITEM], part, config(name))[0]


@pytest.mark.parametrize("name", [*WITH_PROCESSOR, "demo"])
def test_no_attribute_changes_a_tensor_and_not_the_digests(name):
    """Every attribute of processor, image processor and tokenizer is tried."""
    stock = processor(name)
    known, before = processor_digest(stock), encoded(stock, name)
    assert processor_digest(stock) == known  # a call leaves nothing behind
    found = set()
    for owner in ("", "image_processor", "tokenizer"):
        part = getattr(stock, owner) if owner else stock
        for attribute, value in list(vars(part).items()):
            for other in changed(value):
                tried = copy.deepcopy(stock)
                target = getattr(tried, owner) if owner else tried
                vars(target)[attribute] = other
                try:
                    after = encoded(tried, name)
                except Exception:
                    continue
                same = sample_inputs(after) == sample_inputs(before)
                assert (after.digest == before.digest) == same, attribute
                if not same:
                    assert processor_digest(tried) != known, attribute
                    found.add(attribute)
    expected = {"image_mean", "image_std", "rescale_factor", "do_rescale", "do_normalize"}
    assert expected | {"chat_template", "resample"} <= found


def sample_inputs(sample):
    return {name: (each.dtype, each.tolist()) for name, each in sample.inputs.items()}


def test_words_of_answers_count_though_no_input_shows_them():
    known, part = load_processor("demo"), load_processor("demo")
    state = json.loads(part.tokenizer.backend_tokenizer.to_str())
    words = state["model"]["vocab"]
    words["red"], words["blue"] = words["blue"], words["red"]
    part.tokenizer._tokenizer = Tokenizer.from_str(json.dumps(state))
    items = embedded("calibration", 1, 0)
    pair = [encode(items, each, load_config("demo"))[0] for each in (known, part)]
    assert pair[0].digest == pair[1].digest
    assert processor_digest(part) != processor_digest(known)


def test_a_tokenizer_written_in_python_counts_with_its_vocabulary(tmp_path):
    def made(*words):
        file = tmp_path / "vocab.txt"
        file.write_text("\n".join(["[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]", *words]))
        return BertTokenizerLegacy(str(file))

    digests = [processor_digest(made(*words)) for words in ("ab", "ba", "ab")]
    assert digests[0] == digests[2] != digests[1]


def test_a_padded_call_leaves_the_digest_as_it_was():
    part = load_processor("demo")
    known = processor_digest(part)
    part.tokenizer(["a", "a red circle"], padding=True, truncation=True, max_length=2)
    assert processor_digest(part) == known


@pytest.mark.parametrize("field", ["answers", "metric"])
def test_the_score_is_part_of_a_key_and_the_id_is_not(field):
    part, other = load_processor("demo"), {"answers": ("blue",), "metric": "anls"}[field]
    items = [ITEM, replace(ITEM, **{field: other}), replace(ITEM, id="b")]
    first, second, third = encode(items, part, load_config("demo"))
    assert first.digest != second.digest
    assert first.digest == third.digest
    assert first.content == second.content == ITEM.digest()


@given(
    st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.bool]),
    st.lists(st.integers(0, 3), max_size=3),
    st.integers(0, 10**6),
)
def test_every_byte_of_a_tensor_counts(dtype, shape, seed):
    generator = torch.Generator().manual_seed(seed)
    tensor = torch.randint(0, 2, shape, generator=generator).to(dtype)
    digest = tensor_digest(tensor)
    assert tensor_digest(tensor.clone()) == digest
    assert tensor_digest(tensor[None]) != digest
    assert sample_digest({"a": tensor}, ITEM) != sample_digest({"b": tensor}, ITEM)
    if tensor.numel():
        other = tensor.clone()
        other.view(-1)[seed % tensor.numel()] = 1 - other.view(-1)[seed % tensor.numel()].int()
        assert tensor_digest(other) != digest
    if tensor.ndim == 2:
        assert tensor_digest(tensor.T.contiguous().T) == digest


class _Filter(IntEnum):
    BICUBIC = 3


class _Slots:
    __slots__ = ("a",)

    def __init__(self, a):
        self.a = a


class _Part:
    def __init__(self, **attributes):
        vars(self).update(attributes)


def test_equal_settings_are_equal_however_they_are_written():
    ring = _Part(name="a")
    ring.around = [ring]
    pairs = [
        ((1.0, 2.0), [1.0, 2.0]),
        (_Filter.BICUBIC, 3),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({"x", "y", "z"}, {"z", "y", "x"}),
        (np.float32(0.5), 0.5),
        (_Part(a=1, name_or_path="/here"), _Part(a=1, name_or_path="/there")),
        (ring, copy.deepcopy(ring)),
    ]
    for one, other in pairs:
        assert settings_digest(one) == settings_digest(other)


def test_different_settings_differ():
    values = [
        (1.0, 2.0),
        (2.0, 1.0),
        3,
        True,
        "3",
        None,
        {"name_or_path": 1},
        {"name_or_path": 2},
        np.array([1, 2]),
        np.array([1, 3]),
        torch.ones(2),
        torch.ones(2).bfloat16(),
        torch.float16,
        b"1",
        _Part(a=1),
        _Part(a=2),
        _Slots(1),
        _Slots(2),
        AddedToken("<eos>"),
        AddedToken("<pad>"),
        partial(min, 1),
        partial(min, 2),
        min,
        frozenset({1}),
        OrderedDict(a=1),
        OrderedDict(a=2),
    ]
    assert len({settings_digest(value) for value in values}) == len(values)
