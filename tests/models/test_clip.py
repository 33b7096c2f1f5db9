"""CDPruner's relevance by a CLIP model from a folder, and refusals of unfit ones."""

import pytest
import torch
from torch.nn.functional import cosine_similarity
from transformers import AutoModelForImageTextToText, CLIPModel

from opsearch.errors import ModelError
from opsearch.models.clip import read_question
from opsearch.models.families import family_for
from opsearch.models.pruned.ranking import make_prompt
from opsearch.policy import builders
from opsearch.policy.ranker import RankerSpec
from opsearch.rankers.base import Prompt
from opsearch.rankers.cdpruner import CDPruner
from tests.support import tiny
from tests.support.families import FAMILIES, folder
from tests.support.families.clip import CONTEXT, saved_clip
from tests.support.families.prompt import prompts
from tests.support.messages import refuses

QUESTIONS = ([20, 15, 20, 10, 17, 17], [17, 17, 10, 10, 11, 12])


@pytest.fixture(scope="module")
def where(tmp_path_factory):
    """Return the folders of a tiny LLaVA and of a tiny CLIP with a tower of the same width."""
    llava = tmp_path_factory.mktemp("llava")
    folder.save(FAMILIES["llava"], llava, layers=3)
    return llava, saved_clip(tmp_path_factory.mktemp("clip"))


def relevance(model, clip, inputs, question):
    """Return -cos(patch, part) for each patch, mean over the parts of the question."""
    last = model.model.vision_tower(inputs["pixel_values"]).last_hidden_state[0, 1:]
    patches = clip.visual_projection(clip.vision_model.post_layernorm(last))
    parts = [question[i : i + CONTEXT - 2] for i in range(0, len(question), CONTEXT - 2)]
    found = torch.zeros(len(patches))
    for part in parts:
        ids = torch.tensor([[1, *part, 2]])
        text = clip.text_projection(clip.text_model(input_ids=ids).pooler_output)[0]
        found -= cosine_similarity(patches, text[None]) / len(parts)
    return found


@torch.inference_mode()
def test_relevance_is_that_of_clip(where):
    llava, clip = where
    model = AutoModelForImageTextToText.from_pretrained(llava).eval()
    ids = [1, *[tiny.IMAGE] * tiny.PATCHES, 10, 11, 12, 9, 8, 13]
    inputs = prompts(FAMILIES["llava"], [[1, 6]]) | {"input_ids": torch.tensor([ids])}
    needs = {f"clip_patches:{clip}", f"clip_question:{clip}"}
    family = family_for("llava")
    prompt = make_prompt(model, family, inputs["input_ids"], None)
    read_question(model, needs, prompt, inputs["input_ids"])
    handles = family.capture(model, needs, prompt.captured.__setitem__)
    model(**inputs)
    for handle in handles:
        handle.remove()
    patches, question = (prompt.captured[need] for need in sorted(needs))
    found = -cosine_similarity(patches, question) * question.norm()
    wanted = relevance(model, CLIPModel.from_pretrained(clip).eval(), inputs, ids[-6:])
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    assert wanted.unique().numel() == tiny.PATCHES


@torch.inference_mode()
def test_questions_of_a_batch_are_read_as_each_alone(where):
    """Questions of several parts, one, none, and with a special token that CLIP does not read."""
    llava, clip = where
    model = AutoModelForImageTextToText.from_pretrained(llava)
    questions = [[20, 15, 20, 10, 17, 17, 9, 9, 11], [17, 10], [], [17, 2, 10]]
    rows = [[1, *[tiny.IMAGE] * tiny.PATCHES, *question] for question in questions]
    together = question_vectors(model, clip, rows)
    for row, found in zip(rows, together, strict=True):
        torch.testing.assert_close(found[None], question_vectors(model, clip, [row]))
    assert torch.equal(together[1], together[3])
    assert not torch.allclose(together[0], together[1])


def question_vectors(model, clip, rows):
    inputs = tiny.padded(rows, "left")
    ids, real = inputs["input_ids"], inputs["attention_mask"].bool()
    prompt = Prompt(ids == tiny.IMAGE, real, (tiny.PATCHES,) * len(rows))
    read_question(model, {f"clip_question:{clip}"}, prompt, ids)
    return prompt.captured[f"clip_question:{clip}"]


@torch.inference_mode()
def test_the_question_changes_the_choice(where, monkeypatch):
    """The policy's first token is the most relevant one by CLIP."""
    llava, clip = where
    model = AutoModelForImageTextToText.from_pretrained(llava).eval()
    whole, inputs = CLIPModel.from_pretrained(clip).eval(), prompts(FAMILIES["llava"], [[1, 6]])
    policy = builders.tokens(3, "1/3", RankerSpec("cdpruner", (("clip", clip),)))
    seen, rank = [], CDPruner.rank
    monkeypatch.setattr(CDPruner, "rank", lambda *given: seen.append(rank(*given)) or seen[-1])
    for question in QUESTIONS:
        ids = torch.tensor([[1, *[tiny.IMAGE] * tiny.PATCHES, *question]])
        with policy.apply(model):
            assert model(**inputs | {"input_ids": ids}).logits.isfinite().all()
        places = seen[-1][0, 1 : 1 + tiny.PATCHES]
        assert places.argmin() == relevance(model, whole, inputs, question).argmax()
    first, other = ((places[0, 1 : 1 + tiny.PATCHES] < 3).tolist() for places in seen)
    assert sum(first) == sum(other) == 3
    assert first != other


def test_a_clip_that_does_not_fit_is_refused_from_the_configs(where, tmp_path):
    llava, clip = where
    saved_clip(tmp_path / "narrow", width=8)
    model = FAMILIES["llava"].model(3)
    for found, named in (
        (tmp_path / "narrow", (8, 16)),
        (llava, ("'llava'", "CLIP")),
        (tmp_path / "none", ("CLIP", "folder")),
    ):
        with refuses(ModelError, f"clip={found}", *named, "--ranker"):
            family_for("llava").check_needs(model.config, {f"clip_patches:{found}"})
    internvl = FAMILIES["internvl"].model(3)
    with refuses(ModelError, "'internvl_vision'", "CLIP", "--ranker"):
        family_for("internvl").check_needs(internvl.config, {f"clip_question:{clip}"})


def test_a_model_without_a_tokenizer_is_refused(where):
    _, clip = where
    model, ids = FAMILIES["llava"].model(3), torch.tensor([[7, tiny.IMAGE, 8]])
    prompt = Prompt(ids == tiny.IMAGE, ids > 0, (1,))
    with refuses(ModelError, "tokenizer", "''", "folder"):
        read_question(model, {f"clip_question:{clip}"}, prompt, ids)
