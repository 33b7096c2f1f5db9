"""A checkpoint that changed is measured and answered anew; one that did not is never again."""

import json
import os
import re
import shutil
import sqlite3

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import opsearch
from opsearch.commands.cli import call
from opsearch.data.demo import MODEL_DIR
from opsearch.data.groups import Seen
from opsearch.evaluation.answers import answer
from opsearch.measure.storage.records import StoredSample
from opsearch.measure.storage.store import Store
from opsearch.models.encoding import encode
from opsearch.models.spec import ModelSpec
from opsearch.runs.session import model_facts
from tests.support.messages import naming

POLICY = opsearch.builders.tokens(12, "1/2", opsearch.RankerSpec("cls"))
ITEMS = opsearch.load_items("demo", samples=1)


@pytest.fixture
def folder(tmp_path):
    """Return a copy of the embedded model."""
    return shutil.copytree(MODEL_DIR, tmp_path / "model", copy_function=shutil.copyfile)


def with_json(name, *path, to):
    """Return a change of one value in a JSON file of a checkpoint."""

    def change(folder):
        content = json.loads((folder / name).read_text())
        inner = content
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = to
        (folder / name).write_text(json.dumps(content))

    return change


def swapped_words(folder):
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    words = content["model"]["vocab"]
    words["red"], words["blue"] = words["blue"], words["red"]
    path.write_text(json.dumps(content))


def other_template(folder):
    path = folder / "chat_template.jinja"
    path.write_text(path.read_text().replace("assistant", "user"))


def one_weight(folder):
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if name.endswith("layers.5.mlp.up_proj.weight"))
    tensors[name][101, 77] += 0.5
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


PICTURES = {
    "image_mean": [0.5, 0.5, 0.4],
    "image_std": [0.5, 0.4, 0.5],
    "rescale_factor": 1 / 256,
    "resample": 2,
    "do_rescale": False,
    "do_normalize": False,
    "do_convert_rgb": False,
    "do_center_crop": True,
    "crop_size": {"height": 64, "width": 64},
}
CHANGES = {
    "swapped words": swapped_words,
    "chat template": other_template,
    "one weight": one_weight,
    "epsilon": with_json("config.json", "text_config", "rms_norm_eps", to=1e-4),
    "activation": with_json("config.json", "vision_config", "hidden_act", to="gelu"),
    "stop token": with_json("generation_config.json", "eos_token_id", to=3),
    "special token": with_json("tokenizer_config.json", "eos_token", to="<pad>"),
    "length": with_json("tokenizer_config.json", "model_max_length", to=255),
    "patches": with_json("processor_config.json", "vision_feature_select_strategy", to="full"),
    **{
        name: with_json("processor_config.json", "image_processor", name, to=value)
        for name, value in PICTURES.items()
    },
}


def facts(folder):
    """Return what all numbers of the model in a folder depend on, besides sample and policy."""
    spec = ModelSpec(name=str(folder))
    return model_facts(spec.load(), spec.load_processor(), spec)


@pytest.fixture(scope="module")
def stock_facts():
    return facts(MODEL_DIR)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_each_file_that_decides_a_number_changes_the_keys(change, folder, stock_facts):
    change(folder)
    assert facts(folder) != stock_facts


def stored(path, table="measurement"):
    with sqlite3.connect(path) as db:
        (count,) = db.execute(f"SELECT count(*) FROM {table}").fetchone()
    db.close()
    return count


def measured(folder, path):
    """Measure the policy into a store, answer with it, and return both."""
    model, processor = opsearch.load_model(str(folder))
    kl = opsearch.measure_kl(model, processor, ITEMS, [POLICY], store=path)
    samples = encode(ITEMS, processor, model.config)
    with Store(path) as store:
        texts = answer(model, processor, samples, POLICY, store).texts
    return kl, texts


@pytest.mark.parametrize("name", ["swapped words", "image_std"])
def test_nothing_stored_is_reused_after_a_change(name, folder, tmp_path):
    path = tmp_path / "m.db"
    measured(folder, path)
    once = stored(path), stored(path, "answer")
    CHANGES[name](folder)
    found, texts = measured(folder, path)
    assert (stored(path), stored(path, "answer")) == (2 * once[0], 2 * once[1])
    fresh, said = measured(folder, tmp_path / "fresh.db")
    np.testing.assert_array_equal(found, fresh)
    assert texts == said


def test_everything_stored_is_reused_without_a_change(folder, tmp_path):
    path, copied = tmp_path / "m.db", tmp_path / "a copy"
    known = measured(folder, path)
    count = stored(path)
    for file in folder.iterdir():
        os.utime(file, (1, 1))
    shutil.copytree(folder, copied)
    for each in (folder, copied):
        found = measured(each, path)
        np.testing.assert_array_equal(found[0], known[0])
        assert found[1] == known[1]
    assert stored(path) == count


def test_weights_that_change_in_memory_are_measured_anew(tmp_path):
    model, processor = opsearch.load_model("demo")
    path, weight = tmp_path / "m.db", model.model.language_model.layers[3].mlp.up_proj.weight
    first = opsearch.measure_kl(model, processor, ITEMS, [POLICY], store=path)
    with torch.no_grad():
        weight[50:80] *= 2
    second = opsearch.measure_kl(model, processor, ITEMS, [POLICY], store=path)
    with torch.no_grad():
        weight[50:80] /= 2
    third = opsearch.measure_kl(model, processor, ITEMS, [POLICY], store=path)
    assert first != second
    assert first == third
    assert stored(path) == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["swapped words", "image_std"])
def test_a_repeated_run_gives_the_numbers_of_a_fresh_folder(name, folder, tmp_path):
    """The accuracies were those of the tokenizer before."""
    options = ["--model", str(folder), "--samples", "4", "--heldout", "12", "--n-v", ".5"]

    def compared(out, *further):
        assert call(["run", *options, *further, "--out", str(tmp_path / out)]) == 0
        return (tmp_path / out / "comparison.csv").read_text()

    before = compared("run")
    CHANGES[name](folder)
    # Another policy of the same settings does not take the place of the one before.
    policy = opsearch.Policy.from_pretrained(tmp_path / "run")
    compared("run")
    assert opsearch.Policy.from_pretrained(tmp_path / "run").counts == policy.counts
    assert compared("run", "--replace") == compared("fresh") != before


@pytest.mark.parametrize(
    "command", [["compare", "--budget", "50%", "--samples", "1"], ["front", "--measure", "2"]]
)
def test_a_finished_run_is_not_continued_with_what_changed(command, tmp_path, capsys):
    """Its own numbers would no longer be found."""
    run, (name, *options) = tmp_path / "run", command
    settings = {"samples": 1, "heldout": 0, "space": "layers", "n_v": ("1/4", "1")}
    opsearch.RunConfig(**settings, budget=("50%",), out=run).save(run / "run.yaml")
    samples = [StoredSample("i", "name", "f", 9, 1, "c")]
    with Store(run / "measurements.db", {"model": "before"}) as store:
        store.put_calibration(samples, Seen(("c",)))
    assert call([name, str(run), *options]) == 1
    assert re.search(naming("model", "processor", "opsearch run --config"), capsys.readouterr().err)
    with Store(run / "measurements.db") as store:
        assert store.calibration() == samples
