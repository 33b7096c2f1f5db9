"""A CLIP model beside a multimodal one whose vision tower is CLIP's: pictures against questions.

Multimodal checkpoints hold no text tower, and no projection into the space in which CLIP compares
patches with texts. Both come from a folder (or hub id) of the CLIP model that the tower was taken
from; whether its vision tower is the same one, only its width can tell.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from opsearch.errors import ModelError
from opsearch.rankers.prompt import Prompt

CLIP_PATCHES, CLIP_QUESTION = "clip_patches:", "clip_question:"


def unusable_clip(folder: str, config: Any) -> str | None:
    """Why a CLIP model cannot tell relevance for a model of this config, None where it can."""
    from transformers import AutoConfig

    vision = config.vision_config
    if vision.model_type != "clip_vision_model":
        return f"its vision tower is of type {vision.model_type!r}, not CLIP's"
    try:
        clip = AutoConfig.from_pretrained(folder)
    except (OSError, ValueError):
        return (
            f"clip={folder} is no folder of a CLIP model, nor a hub id that can be reached; give "
            "one that holds config.json and the weights"
        )
    if clip.model_type != "clip":
        return f"clip={folder} holds a model of type {clip.model_type!r} and not a whole CLIP model"
    if clip.vision_config.hidden_size != vision.hidden_size:
        return (
            f"the vision tower in clip={folder} is {clip.vision_config.hidden_size} wide and the "
            f"model's {vision.hidden_size}, so it is another one"
        )
    return None


def joint_patches(folder: str, patches: Tensor) -> Tensor:
    """Patches of the tower's last layer where CLIP compares them with texts, [images, P, D]."""
    clip = _clip(folder, patches.device)
    projected: Tensor = clip.visual_projection(clip.vision_model.post_layernorm(patches.float()))
    return projected


def read_question(model: Any, needs: Iterable[str], prompt: Prompt, input_ids: Tensor) -> None:
    """Capture the question as CLIP reads it where it is needed: the mean of its texts, [B, D].

    A question longer than CLIP's context is cut into texts of that length. Waits for the device.
    """
    folders = [n.removeprefix(CLIP_QUESTION) for n in needs if n.startswith(CLIP_QUESTION)]
    for folder in folders:
        words = _tokenizer(model.config.name_or_path)
        rows = zip(input_ids.tolist(), prompt.question().tolist(), strict=True)
        kept = [[i for i, asked in zip(*row, strict=True) if asked] for row in rows]
        texts = [words.decode(ids, skip_special_tokens=True).strip() for ids in kept]
        vectors = [_text_vector(folder, text, input_ids.device) for text in texts]
        prompt.captured[CLIP_QUESTION + folder] = torch.stack(vectors)


def _text_vector(folder: str, text: str, device: torch.device) -> Tensor:
    """Mean of the unit vectors of a text's parts, float32[D]."""
    clip, tokenizer = _clip(folder, device), _tokenizer(folder)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    room = clip.config.text_config.max_position_embeddings - 2
    parts = [ids[start : start + room] for start in range(0, max(1, len(ids)), room)]
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    vectors = []
    for part in parts:
        given = torch.tensor([[start, *part, end]], device=device)
        pooled = clip.text_model(input_ids=given).pooler_output
        vectors.append(normalize(clip.text_projection(pooled)[0], dim=-1))
    return torch.stack(vectors).mean(0)


@lru_cache(maxsize=1)
def _clip(folder: str, device: torch.device) -> Any:
    """The CLIP model in float32; kept, because it is asked for at every prefill."""
    from transformers import CLIPModel

    return CLIPModel.from_pretrained(folder, dtype=torch.float32).eval().to(device)


@lru_cache(maxsize=2)
def _tokenizer(folder: str) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(
            f"the tokenizer of {folder!r} cannot be loaded ({reason}), so the question cannot be "
            "read for CLIP; load the model from a folder or hub id that holds its tokenizer"
        ) from error
