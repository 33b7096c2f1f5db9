"""`lmms-eval --model opsearch` answers as the stock wrapper does under the policy."""

import tomllib
from pathlib import Path

import pytest

from opsearch import RankerSpec
from opsearch.errors import PolicyError
from opsearch.evaluation.lmms.plugin import manifest
from opsearch.policy import builders
from tests.support.messages import naming

ROOT = Path(__file__).parents[3]
HALF = builders.tokens(12, "1/2", RankerSpec("cls"))


@pytest.fixture
def registry():
    from lmms_eval.models import MODEL_REGISTRY_V2

    MODEL_REGISTRY_V2.register_manifest(manifest())
    return MODEL_REGISTRY_V2


def arguments(tmp_path, policy=HALF):
    policy.save_pretrained(tmp_path)
    return f"policy={tmp_path},pretrained=demo,dtype=float32"


def test_the_entry_point_names_the_manifest():
    with (ROOT / "pyproject.toml").open("rb") as file:
        points = tomllib.load(file)["project"]["entry-points"]["lmms_eval.models"]
    assert points == {"opsearch": f"{manifest.__module__}:{manifest.__name__}"}


def test_it_answers_as_the_stock_wrapper_under_the_policy(tmp_path, registry):
    from opsearch.data.lmms import load_task
    from opsearch.evaluation.lmms.answering import build_requests
    from opsearch.evaluation.lmms.wrappers import load_wrapper
    from opsearch.models.spec import ModelSpec

    kind = registry.get_model_class("opsearch")
    model = kind.create_from_arg_string(arguments(tmp_path), {"batch_size": 1, "device": "cpu"})
    stock = load_wrapper(ModelSpec("demo", "float32", "cpu"))
    task = load_task("embedded_color")
    texts = []
    for each in (model, stock, stock):
        each.task_dict[task.config.task] = task.dataset
    for use in (model.generate_until, stock.generate_until):
        texts.append([answer.text for answer in use(build_requests(task, 3))])
    with HALF.apply(stock.model):
        texts.append([answer.text for answer in stock.generate_until(build_requests(task, 3))])
    pruned, original, expected = texts
    assert pruned == expected
    assert len(original) == 3


@pytest.mark.parametrize(
    ("settings", "error", "values"),
    [
        ({"batch_size": 8}, ValueError, ("batch_size 8", "--batch_size 1")),
        ({"policy": builders.vtw(5, 2)}, PolicyError, ("5 layers", 12)),
    ],
    ids=["batch", "layers"],
)
def test_what_cannot_be_is_refused(tmp_path, registry, settings, error, values):
    line = arguments(tmp_path, settings.pop("policy", HALF))
    kind = registry.get_model_class("opsearch")
    with pytest.raises(error, match=naming(*values)):
        kind.create_from_arg_string(line, {"device": "cpu", **settings})
