"""A damaged, incomplete or unsafe checkpoint is refused, with the file and the next step."""

import json
import logging
import os
import pickle
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from opsearch.commands.cli import call
from opsearch.data.item import Item
from opsearch.errors import ModelError
from opsearch.models.clip import clip_parts, clip_unsupported_reason
from opsearch.models.encoding import prompt_text
from opsearch.models.loading import load_config, load_processor, load_weights
from tests.support.families import FAMILIES, built
from tests.support.families.clip import saved_clip
from tests.support.families.folder import save
from tests.support.messages import refuses

ONE_FILE = "model.safetensors"
HEAD = "language_model.lm_head.weight"  # in the file; lm_head.weight in the model
PICKLE = "pytorch_model.bin"
INDEX = "model.safetensors.index.json"
PARTS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
JSON_FILES = {
    "config.json": (load_config, load_weights, load_processor),
    "generation_config.json": (load_weights,),
    "processor_config.json": (load_processor,),
    "tokenizer_config.json": (load_processor,),
    "tokenizer.json": (load_processor,),
}
BROKEN = {"empty": b"", "cut": b'{"a": ', "a list": b"[]", "no text": b"\xff\xfe\x00\x80"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    save(FAMILIES["llava"], folder)
    return folder


@pytest.fixture
def folder(whole, tmp_path):
    """A copy of a whole checkpoint, to be damaged."""
    return shutil.copytree(whole, tmp_path / "model")


def with_tensors(folder, change):
    """Write the weights again, changed."""
    tensors = load_file(folder / ONE_FILE)
    change(tensors)
    save_file(tensors, folder / ONE_FILE, metadata={"format": "pt"})


def with_settings(folder, name, **changes):
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def as_pickle(folder):
    """Write the weights as a pickle instead, and return its path."""
    tensors = load_file(folder / ONE_FILE)
    (folder / ONE_FILE).unlink()
    torch.save(tensors, folder / PICKLE)
    return folder / PICKLE


def as_parts(folder):
    """Write the weights as two parts with an index instead."""
    tensors = load_file(folder / ONE_FILE)
    (folder / ONE_FILE).unlink()
    names = list(tensors)
    files = {}
    for part, own in zip(PARTS, (names[:20], names[20:]), strict=True):
        save_file({name: tensors[name] for name in own}, folder / part, metadata={"format": "pt"})
        files |= dict.fromkeys(own, part)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": files}))


def halve(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


class Malicious:
    """Runs a command when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("number", [1, 5])
def test_a_lacking_tensor_is_named(folder, number):
    removed = [HEAD, *sorted(each for each in load_file(folder / ONE_FILE) if "mlp" in each)]
    with_tensors(folder, lambda tensors: [tensors.pop(name) for name in removed[:number]])
    with refuses(ModelError, folder, f"{number} tensor", "lm_head.weight", "config.json"):
        load_weights(str(folder))


def test_more_layers_than_the_weights_have_are_lacking_tensors(folder):
    config = json.loads((folder / "config.json").read_text())["text_config"]
    with_settings(folder, "config.json", text_config=config | {"num_hidden_layers": 4})
    with refuses(ModelError, folder, "9 tensors", "model.language_model.layers.3."):
        load_weights(str(folder))


def test_a_run_on_an_incomplete_checkpoint_prints_one_sentence(folder, tmp_path, capsys):
    with_tensors(folder, lambda tensors: tensors.pop(HEAD))
    data = tmp_path / "data.jsonl"
    Image.new("RGB", (12, 12)).save(tmp_path / "a.png")
    data.write_text(json.dumps({"image": "a.png", "question": "what", "answer": "red"}))
    out = ["--samples=1", "--heldout=0", f"--out={tmp_path / 'run'}"]
    assert call(["run", f"--model={folder}", f"--data={data}", "--space=dop", *out]) == 1
    said = capsys.readouterr().err
    assert "lm_head.weight" in said
    assert "LOAD REPORT" not in said
    assert not any(word in said for word in ("defect", "Traceback"))


def test_tied_weights_need_not_be_stored_twice(folder):
    with_settings(folder, "config.json", tie_word_embeddings=True)
    with_tensors(folder, lambda tensors: tensors.pop(HEAD))
    model = load_weights(str(folder))
    assert torch.equal(model.lm_head.weight, model.model.language_model.embed_tokens.weight)


def test_buffers_that_the_model_computes_may_be_stored_or_not(folder):
    """Earlier checkpoints hold them."""
    old = "language_model.model.layers.0.self_attn.rotary_emb.inv_freq"
    with_tensors(folder, lambda tensors: tensors.update({old: torch.ones(4)}))
    inputs = {"input_ids": torch.tensor([[1, 7, 8]])}
    found, wanted = load_weights(str(folder)), built("llava", 3)
    with torch.inference_mode():
        assert torch.equal(found(**inputs).logits, wanted(**inputs).logits)


def test_tensors_without_a_place_are_noted(folder, caplog):
    with_tensors(folder, lambda tensors: tensors.update({"extra.weight": torch.ones(2)}))
    with caplog.at_level(logging.WARNING, "opsearch"):
        load_weights(str(folder))
    (note,) = [each.getMessage() for each in caplog.records if each.name == "opsearch"]
    assert "1 tensor (" in note
    assert "extra.weight" in note


def test_a_whole_checkpoint_is_loaded_without_a_note(folder, caplog):
    load_weights(str(folder))
    as_parts(folder)
    load_weights(str(folder))
    assert not caplog.records


def test_a_whole_pickle_of_tensors_is_loaded(folder):
    wanted = load_weights(str(folder)).state_dict()
    as_pickle(folder)
    for name, tensor in load_weights(str(folder)).state_dict().items():
        assert torch.equal(tensor, wanted[name])


def test_a_tensor_of_another_shape_is_named(folder):
    with_tensors(folder, lambda tensors: tensors.update({HEAD: torch.zeros(3, 4)}))
    with refuses(ModelError, folder, "lm_head.weight", "[3, 4]", "[97, 32]"):
        load_weights(str(folder))


@pytest.mark.parametrize("content", [b"", b"x" * 1000, None])
def test_damaged_safetensors_are_named(folder, content):
    path = folder / ONE_FILE
    path.write_bytes(path.read_bytes()[:2000] if content is None else content)
    with refuses(ModelError, path, "download"):
        load_weights(str(folder))


@pytest.mark.parametrize("name", [ONE_FILE, "tokenizer.json"])
def test_a_pointer_of_git_lfs_is_called_so(folder, name):
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 2\n")
    with refuses(ModelError, folder / name, "git lfs pull"):
        (load_weights if name == ONE_FILE else load_processor)(str(folder))


def test_a_folder_without_weights_is_called_so(folder):
    (folder / ONE_FILE).unlink()
    with refuses(ModelError, folder, "weights", ONE_FILE):
        load_weights(str(folder))


def test_a_lacking_part_is_named(folder):
    as_parts(folder)
    (folder / PARTS[1]).unlink()
    with refuses(ModelError, folder / INDEX, PARTS[1], "1 of the 2 files"):
        load_weights(str(folder))


def test_a_damaged_part_is_named(folder):
    as_parts(folder)
    halve(folder / PARTS[1])
    with refuses(ModelError, folder / PARTS[1], "download"):
        load_weights(str(folder))


def test_a_part_in_place_of_another_lacks_tensors(folder):
    as_parts(folder)
    shutil.copy(folder / PARTS[0], folder / PARTS[1])
    with refuses(ModelError, folder, "tensors"):
        load_weights(str(folder))


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"weight_map": [1]}'])
def test_a_damaged_index_is_named(folder, content):
    as_parts(folder)
    (folder / INDEX).write_text(content)
    with refuses(ModelError, folder / INDEX):
        load_weights(str(folder))


@pytest.mark.parametrize("plain", [True, False])
def test_a_pickle_with_code_is_refused_and_does_not_run(folder, tmp_path, plain):
    path, trace = as_pickle(folder), tmp_path / "it ran"
    with path.open("wb") as file:
        (pickle.dump if plain else torch.save)({"a": Malicious(trace)}, file)
    with refuses(ModelError, path, "safetensors") as raised:
        load_weights(str(folder))
    assert not trace.exists()
    assert "weights_only" not in str(raised.value)


@pytest.mark.parametrize("content", [b"", b"hello world" * 100, None])
def test_a_damaged_pickle_is_named(folder, content):
    path = as_pickle(folder)
    path.write_bytes(path.read_bytes()[:5000] if content is None else content)
    with refuses(ModelError, path, "safetensors") as raised:
        load_weights(str(folder))
    assert "weights_only" not in str(raised.value)


def test_a_pickle_of_something_else_is_named(folder):
    path = as_pickle(folder)
    torch.save([1, 2], path)
    with refuses(ModelError, path, "list", "safetensors"):
        load_weights(str(folder))


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("name", JSON_FILES)
def test_a_broken_file_of_settings_is_named(folder, name, content):
    (folder / name).write_bytes(content)
    for load in JSON_FILES[name]:
        with refuses(ModelError, folder / name, "copy or download"):
            load(str(folder))


@pytest.mark.parametrize("name", ["processor_config.json", "tokenizer.json"])
def test_a_processor_without_one_of_its_files_is_called_so(folder, name):
    (folder / name).unlink()
    with refuses(ModelError, folder, name):
        load_processor(str(folder))


def test_a_folder_without_a_config_is_called_so(folder):
    (folder / "config.json").unlink()
    with refuses(ModelError, folder, "config.json"):
        load_config(str(folder))


def test_a_file_is_no_folder(folder):
    path = folder / "config.json"
    for load in (load_config, load_processor, load_weights):
        with refuses(ModelError, path, "is a file", "folder"):
            load(str(path))


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_size": "big"},
        {"num_attention_heads": 0},
        {"num_attention_heads": 5},
        {"hidden_act": "mystery"},
        {"model_type": "mystery"},
    ],
    ids=str,
)
def test_a_config_that_makes_no_model_is_named(folder, changes):
    config = json.loads((folder / "config.json").read_text())["text_config"]
    with_settings(folder, "config.json", text_config=config | changes)
    with refuses(ModelError, f"config.json in {folder}") as raised:
        load_weights(str(folder))
    assert len(str(raised.value)) < 400 + 2 * len(str(folder))


@pytest.mark.parametrize(
    ("name", "auto", "load"),
    [
        ("config.json", "AutoConfig", load_config),
        ("config.json", "AutoConfig", load_weights),
        ("processor_config.json", "AutoProcessor", load_processor),
    ],
)
def test_code_of_a_checkpoint_is_never_run_nor_asked_for(
    folder, tmp_path, monkeypatch, name, auto, load
):
    trace, asked = tmp_path / "it ran", []
    (folder / "own.py").write_text(f"open({str(trace)!r}, 'w').close()\nclass Own: pass\n")
    changes = {"auto_map": {auto: "own.Own"}, "model_type": "own", "processor_class": "Own"}
    with_settings(folder, name, **changes)
    monkeypatch.setattr("builtins.input", lambda *prompt: asked.append(prompt) or "y")
    with refuses(ModelError, folder, "auto_map"):
        load(str(folder))
    assert not trace.exists()
    assert not asked


def test_the_clip_of_a_ranker_is_held_to_the_same(tmp_path, monkeypatch):
    folder = tmp_path / "clip"
    saved_clip(folder)
    model = built("llava", 3)
    with_tensors(folder, lambda tensors: tensors.pop("text_projection.weight"))
    monkeypatch.setattr(model.config, "name_or_path", str(folder))  # whose tokenizer is read
    with refuses(ModelError, folder, "text_projection.weight"):
        clip_parts(model, str(folder))
    (folder / "config.json").write_text("{")
    assert str(folder / "config.json") in clip_unsupported_reason(str(folder), model.config)


@pytest.mark.parametrize("template", ["{% if %}", "{{ raise_exception('no') }}"])
def test_a_broken_chat_template_is_named(folder, template):
    (folder / "chat_template.jinja").write_text(template)
    processor = load_processor(str(folder))
    with refuses(ModelError, "item 7", "chat_template.jinja"):
        prompt_text(processor, Item("7", "what", ("red",), ()))
