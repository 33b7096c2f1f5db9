"""`opsearch eval --engine vllm` on the embedded model, against transformers."""

from io import StringIO

import pytest
import torch
from rich.console import Console

from opsearch.commands.engine_eval import STAGES, evaluate_engine
from opsearch.data.embedded import embedded
from opsearch.evaluation.evaluate import evaluate
from opsearch.models.encoding import batch_inputs, encode
from opsearch.models.spec import ModelSpec
from opsearch.progress import Progress
from tests.serving.engine.policies import FREE
from tests.support.served import EMBEDDED, loaded

OPTIONS = ["--dtype=float32", "--max-model-len=256", "--block-size=32", "--enforce-eager"]
SAMPLES = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A policy, with what a comparison said of it."""
    path = tmp_path_factory.mktemp("eval")
    FREE.save_pretrained(path)
    (path / "comparison.csv").write_text(
        ',original,opsearch\n"KL held-out",0.0,0.25\n"Rel. Avg., %",100.0,\n'
    )
    return path


@pytest.fixture(scope="module")
def found(folder):
    progress = Progress(Console(file=StringIO()), STAGES)
    return evaluate_engine(folder, None, OPTIONS, progress, samples=SAMPLES)


def test_answers_are_those_of_transformers(folder, found):
    expected = evaluate(folder, ModelSpec(), samples=SAMPLES, console=Console(file=StringIO()))
    for side in ("original", "policy"):
        ours, theirs = getattr(found.scores, side), getattr(expected, side)
        assert ours.texts == theirs.texts
        assert ours.scores.tolist() == theirs.scores.tolist()
        assert ours.lengths == theirs.lengths
    assert found.scores.changed > 0


def test_divergences_are_those_of_transformers(found):
    model, processor = loaded(EMBEDDED)
    samples = encode(embedded("test", SAMPLES, 0), processor, model.config)

    @torch.no_grad()
    def next_tokens():
        logits = [model(**batch_inputs([each], "cpu")).logits[0, -1] for each in samples]
        return torch.stack(logits).double().log_softmax(-1)

    original = next_tokens()
    with FREE.apply(model):
        pruned = next_tokens()
    expected = (original.exp() * (original - pruned)).sum(1)
    torch.testing.assert_close(torch.tensor(found.kl), expected, atol=1e-4, rtol=1e-3)
    assert expected.max() > 0.1


def test_what_the_run_reported_stands_beside(found):
    assert found.reported == {"KL held-out": 0.25}
