"""`opsearch run` takes a folder of every family, from its processor to the saved policy."""

import importlib.util
import json
import re

import pytest
import torch
from PIL import Image

from opsearch import Policy
from opsearch.commands.cli import call
from opsearch.data.files import load_jsonl
from opsearch.models.encoding import batch_inputs, batches, encode
from opsearch.models.loading import load_config, load_processor, load_weights
from tests.support.families import FAMILIES, WITH_PROCESSOR, tiles
from tests.support.families.folder import save, tokenizer
from tests.support.messages import naming

SIZES = [(24, 13), (24, 12), (24, 24), (12, 24)]  # width and height
TILED = {(w, h): tiles.CUTS[h, w].tokens for w, h in SIZES}
# Visual tokens of a picture by the processor's own rules, then of the first and the third together.
TOKENS = {
    "llava": [9, 9, 9, 9, 18],
    "llava_next": [*TILED.values(), 14 + 24],
    "llava_onevision": [*TILED.values(), 5 + 5],
    "internvl": [12, 12, 20, 12, 32],
    "qwen2_5_vl": [6, 6, 9, 6, 15],
    "aya_vision": [12, 12, 20, 12, 32],
    "cohere2_vision": [12, 12, 20, 12, 32],
    "gemma3": [9, 9, 9, 9, 18],
    "glm46v": [6, 6, 9, 6, 15],
    "glm4v": [6, 6, 9, 6, 15],
    "idefics3": [20, 12, 20, 12, 40],
    "llava_next_video": [*TILED.values(), 14 + 24],
    "mistral3": [6, 6, 9, 6, 15],
    "ovis2": [12, 12, 20, 12, 32],
    "paligemma": [9, 9, 9, 9, 18],
    "perception_lm": [20, 12, 20, 12, 40],
    "qwen2_vl": [6, 6, 9, 6, 15],
    "qwen3_vl": [6, 6, 9, 6, 15],
    "qwen3_vl_moe": [6, 6, 9, 6, 15],
    "smolvlm": [20, 12, 20, 12, 40],
    "vipllava": [9, 9, 9, 9, 18],
}


@pytest.fixture(params=WITH_PROCESSOR)
def family(request):
    return request.param


@pytest.fixture
def folder(family, tmp_path):
    """The family's tiny model and processor."""
    save(FAMILIES[family], tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def data(tmp_path):
    """Questions about pictures of four sizes, then one about two pictures."""
    lines = []
    for index, size in enumerate(SIZES):
        Image.effect_noise(size, 80).convert("RGB").save(tmp_path / f"{index}.png")
        lines.append({"image": f"{index}.png", "question": "what colour is it", "answer": "red"})
    lines.append({"images": ["0.png", "2.png"], "question": "how many", "answer": "red"})
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def test_items_are_encoded_as_the_model_takes_them(family, folder, data):
    samples = encode(load_jsonl(data), load_processor(str(folder)), load_config(str(folder)))
    assert [sample.n_visual for sample in samples] == TOKENS[family]
    model = load_weights(str(folder))
    with torch.inference_mode():
        for batch in batches(samples, max_tokens=1000):
            together = model(**batch_inputs(batch, "cpu")).logits
            for logits, sample in zip(together, batch, strict=True):
                alone = model(**sample.inputs).logits[0]
                torch.testing.assert_close(logits, alone, rtol=0, atol=1e-5)


def test_a_run_ends_with_a_policy_for_the_family(family, folder, data, tmp_path, capsys):
    options = ["--samples=4", "--heldout=1", "--n-v=.5", "--objective=joint", "--budget=60%"]
    out = tmp_path / "run"
    assert call(["run", f"--model={folder}", f"--data={data}", *options, f"--out={out}"]) == 0
    assert re.search(r"\boptimal\b", capsys.readouterr().out)
    policy = Policy.from_pretrained(out)
    assert policy.model_type == family
    with policy.apply(load_weights(str(folder))):
        pass


@pytest.mark.parametrize(
    ("family", "changes", "options", "reason"),
    [
        ("qwen2_5_vl", {}, ["--ranker=cls"], "'cls_attention'"),
        ("llava_onevision", {}, ["--ranker=cls"], "'cls_attention'"),
        ("llava", {"vision_feature_select_strategy": "full"}, [], "'full'"),
        ("llava", {"vision_feature_layer": [-2, -1]}, [], "[-2, -1]"),
    ],
)
def test_a_ranker_that_cannot_work_is_refused_by_the_config_alone(
    tmp_path, capsys, family, changes, options, reason
):
    """The family's default as well as a named one; the folder holds no weights."""
    config = FAMILIES[family].model(2).config
    for name, value in changes.items():
        setattr(config, name, value)
    config.save_pretrained(tmp_path / "model")
    out = tmp_path / "run"
    assert call(["run", f"--model={tmp_path / 'model'}", *options, f"--out={out}"]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert said.startswith("error: ")
    names = "--ranker", "divprune", "random", "uniform"
    assert re.search(naming(repr(family), reason, *names), said)
    assert not out.exists()


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is not None, reason="it is installed")
def test_without_torchvision_a_run_says_what_to_install(data, tmp_path, capsys):
    folder = tmp_path / "model"
    FAMILIES["qwen2_5_vl"].model(2).config.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    settings = {
        "processor_class": "Qwen2_5_VLProcessor",
        "image_processor": {"image_processor_type": "Qwen2VLImageProcessor"},
        "video_processor": {"video_processor_type": "Qwen2VLVideoProcessor"},
    }
    (folder / "processor_config.json").write_text(json.dumps(settings))
    assert call(["run", f"--model={folder}", f"--data={data}", f"--out={tmp_path / 'run'}"]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert re.search(naming("torchvision", f"torch {torch.__version__}"), said)
