"""The stock wrappers of Qwen2.5-VL and InternVL, on tiny random models of true architecture."""

import json
import re
import sys

import pytest
import torch

from opsearch import RankerSpec
from opsearch.commands.cli import call
from opsearch.data.lmms import load_task
from opsearch.errors import ModelError, OpsearchError
from opsearch.evaluation.lmms.answering import build_requests
from opsearch.evaluation.lmms.benchmarks import task_name
from opsearch.evaluation.lmms.log import FILE_NAME
from opsearch.evaluation.lmms.wrappers import WRAPPERS, load_wrapper, wrapper_name
from opsearch.models.loading import load_weights
from opsearch.models.spec import ModelSpec
from opsearch.policy import builders
from tests.evaluation.lmms.data import write_task
from tests.support.families import FAMILIES
from tests.support.families.folder import SPECIAL, WORDS, save
from tests.support.messages import naming

LAYERS, DOCUMENTS = 3, 2
QUARTER = builders.tokens(LAYERS, "1/4", RankerSpec("uniform"))


@pytest.fixture(params=["internvl", "qwen2_5_vl"])
def folder(request, tmp_path):
    """The family's tiny model, which answers in words that its tokenizer has."""
    # lmms-eval enlarges Qwen's pictures to 1,024 patches of 14 x 14 pixels at least.
    sizes = {"patch": 14} if request.param == "qwen2_5_vl" else {}
    save(FAMILIES[request.param], tmp_path / "model", LAYERS, **sizes)
    model = load_weights(str(tmp_path / "model"))
    with torch.no_grad():
        model.lm_head.weight[: len(SPECIAL)] = 0
        model.lm_head.weight[len(SPECIAL) + len(WORDS) :] = 0
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.requires_torchvision
@pytest.mark.filterwarnings("ignore:Passing `min_pixels`:FutureWarning")  # lmms-eval does
def test_it_answers_in_the_stock_wrapper_with_and_without_the_policy(folder, tmp_path, capsys):
    QUARTER.save_pretrained(tmp_path / "policy")
    name = write_task(tmp_path, "ai2d")
    options = [f"--model={folder}", "--dtype=bfloat16", f"--limit={DOCUMENTS}"]
    assert call(["eval", str(tmp_path / "policy"), f"--tasks={name}", *options]) == 0
    assert re.search(rf"\b1 tasks?\b\D*\b{DOCUMENTS}\b", capsys.readouterr().out)
    lines = (tmp_path / "policy" / FILE_NAME).read_text().splitlines()
    texts = [json.loads(line)["text"] for line in lines]

    wrapper = load_wrapper(ModelSpec(str(folder), "bfloat16", "cpu"))
    assert type(wrapper).__module__.endswith(f"chat.{wrapper_name(str(folder))}")
    task = load_task(task_name(name), wrapper_name(str(folder)))
    wrapper.task_dict[task.config.task] = task.dataset
    requests, logits = build_requests(task, DOCUMENTS), []
    wrapper.model.lm_head.register_forward_hook(lambda head, rows, found: logits.append(found))
    expected = [answer.text for answer in wrapper.generate_until(requests)]
    steps = len(logits)
    with QUARTER.apply(wrapper.model):
        expected += [answer.text for answer in wrapper.generate_until(requests)]
    assert texts == expected
    assert all(set(text.split()) <= set(WORDS) and text for text in texts)
    # Models this small may say the same all the same.
    assert not torch.equal(logits[0][:, -1], logits[steps][:, -1])


def test_other_wrappers_load_bfloat16_only(tmp_path):
    FAMILIES["internvl"].model(2).config.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=naming("internvl_hf", "bfloat16", "float32")):
        load_wrapper(ModelSpec(str(tmp_path), "float32", "cpu"))


def test_a_family_without_a_wrapper_is_refused_with_the_next_step(monkeypatch):
    monkeypatch.delitem(WRAPPERS, "llava")
    with pytest.raises(ModelError, match=naming("'demo'", "'llava'", "qwen2_5_vl", "--data FILE")):
        wrapper_name("demo")


def test_what_the_wrapper_of_qwen_does_not_ask_for_is_named(tmp_path, monkeypatch):
    """lmms-eval only warns of it, and fails at the first picture."""
    FAMILIES["qwen2_5_vl"].model(2).config.save_pretrained(tmp_path)
    monkeypatch.setitem(sys.modules, "qwen_vl_utils", None)
    with pytest.raises(
        OpsearchError, match=naming("qwen2_5_vl", "qwen_vl_utils", "opsearch[lmms]'")
    ):
        load_wrapper(ModelSpec(str(tmp_path), "bfloat16", "cpu"))
