"""Attention received by visual tokens equals loops over the model's own attention maps."""

import pytest

from opsearch.data.item import Item
from opsearch.measure import received_attention as measured
from opsearch.measure.received_attention import received_attention
from opsearch.measure.storage.store import Store
from opsearch.models.encoding import Sample
from tests.measure import families
from tests.models.judge import samples as judged
from tests.support.families import EACH, FAMILIES, built
from tests.support.families.prompt import prompts

pytestmark = pytest.mark.usefixtures("no_grad")

LAYERS = 3


def literal(maps, shown, words):
    """Return attention per layer from words and from visual rows to each visual token.

    maps: [L][H][row][column].
    """

    def mass(layer, rows, token):
        return sum(max(head[row][token] for head in layer) for row in rows) / len(rows)

    return [
        [[mass(layer, rows, token) for token in shown] for rows in (words, shown)] for layer in maps
    ]


def expected(model, inputs, visual):
    maps = model(**inputs, output_attentions=True).attentions
    shown = visual.nonzero().flatten().tolist()
    words = list(range(shown[-1] + 1, len(visual)))
    return literal([layer[0].tolist() for layer in maps], shown, words)


def check(model, sample, visual, path):
    with Store(path / "m.db", {}) as store:
        (masses,) = received_attention(model, store, [sample])
    wanted = expected(model, sample.inputs, visual)
    assert masses.shape == (model.config.get_text_config().num_hidden_layers, 2, sample.n_visual)
    assert masses.ravel().tolist() == pytest.approx(
        [each for layer in wanted for both in layer for each in both], rel=1e-4, abs=1e-6
    )


@pytest.mark.parametrize("decoder", families.DECODERS)
def test_in_every_decoder(decoder, tmp_path):
    model = families.model(decoder, "eager")
    sample = families.sample([2, 3, 4])
    check(model, sample, judged(model, sample.inputs)[0].visual, tmp_path)


@pytest.mark.parametrize("name", EACH)
def test_in_every_family(name, tmp_path):
    model = built(name, LAYERS, "eager")
    inputs = prompts(FAMILIES[name], [[3, 4]], 0)
    (row,) = judged(model, inputs)
    sizes = row.n_visual, int((~row.visual).sum())
    check(model, Sample(Item("a", "", (), ()), "a", inputs, *sizes), row.visual, tmp_path)


def test_each_sample_is_read_once(tmp_path, monkeypatch):
    model, drawn = families.model(), [families.sample([3, 4], seed) for seed in range(4)]
    read = []
    whole = measured._measured
    monkeypatch.setattr(measured, "_measured", lambda m, s: read.append(len(s)) or whole(m, s))
    with Store(tmp_path / "m.db", {}) as store:
        first = received_attention(model, store, drawn[:2])
        seen = []
        both = received_attention(model, store, [*drawn, drawn[2]], lambda *tick: seen.append(tick))
    assert read == [2, 2]
    assert seen == [(2, 2)]
    assert [len({masses.tobytes() for masses in some}) for some in (first, both)] == [2, 4]
    assert [masses.tobytes() for masses in both[:2]] == [masses.tobytes() for masses in first]
