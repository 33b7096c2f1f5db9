"""A CLIP model beside a multimodal one whose vision tower is CLIP's: pictures against questions.

Multimodal checkpoints hold no text tower, and no projection into the space in which CLIP compares
patches with texts. Both come from a folder (or hub id) of the CLIP model that the tower was taken
from; whether its vision tower is the same one, only its width can tell.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from opsearch.errors import ModelError
from opsearch.rankers.prompt import Prompt
from opsearch.upload import upload

CLIP_PATCHES, CLIP_QUESTION = "clip_patches:", "clip_question:"


def unusable_clip(folder: str, config: Any) -> str | None:
    """Why a CLIP model cannot tell relevance for a model of this config, None where it can."""
    from transformers import AutoConfig

    if reason := not_of_clip(config):
        return reason
    try:
        clip = AutoConfig.from_pretrained(folder)
    except (OSError, ValueError):
        return (
            f"clip={folder} is no folder of a CLIP model, nor a hub id that can be reached; give "
            "one that holds config.json and the weights"
        )
    if clip.model_type != "clip":
        return f"clip={folder} holds a model of type {clip.model_type!r} and not a whole CLIP model"
    given, own = clip.vision_config.hidden_size, config.vision_config.hidden_size
    if given != own:
        return (
            f"the vision tower in clip={folder} is {given} wide and the model's {own}, so it is "
            "another one"
        )
    return None


def not_of_clip(config: Any) -> str | None:
    """Why no CLIP model knows the pictures of a model of this config, None where one may."""
    kind = config.vision_config.model_type
    return (
        None if kind == "clip_vision_model" else f"its vision tower is of type {kind!r}, not CLIP's"
    )


def joint_patches(folder: str, patches: Tensor) -> Tensor:
    """Patches of the tower's last layer where CLIP compares them with texts, [images, P, D]."""
    clip = _clip(folder, patches.device)
    projected: Tensor = clip.visual_projection(clip.vision_model.post_layernorm(patches.float()))
    return projected


def read_question(model: Any, needs: Iterable[str], prompt: Prompt, input_ids: Tensor) -> None:
    """Capture the question as CLIP reads it where it is needed: the mean of its texts, [B, D].

    A question longer than CLIP's context is cut into texts of that length. Waits for the device
    once, for the words.
    """
    folders = [n.removeprefix(CLIP_QUESTION) for n in needs if n.startswith(CLIP_QUESTION)]
    for folder in folders:
        words = _tokenizer(model.config.name_or_path)
        rows = torch.where(prompt.question(), input_ids, -1).tolist()
        kept = [[word for word in row if word >= 0] for row in rows]
        texts = [words.decode(ids, skip_special_tokens=True).strip() for ids in kept]
        prompt.captured[CLIP_QUESTION + folder] = _text_vectors(folder, texts, input_ids.device)


def _text_vectors(folder: str, texts: Sequence[str], device: torch.device) -> Tensor:
    """For each text the mean of its parts' unit vectors, float32[B, D]; all parts are one batch."""
    clip, tokenizer = _clip(folder, device), _tokenizer(folder)
    room = clip.config.text_config.max_position_embeddings - 2
    parts = [_parts(tokenizer(text, add_special_tokens=False)["input_ids"], room) for text in texts]
    flat = [part for own in parts for part in own]
    # Nothing looks back at what stands behind its end, so that no mask need say what is padded.
    given = np.full((len(flat), 2 + max(map(len, flat))), tokenizer.eos_token_id)
    given[:, 0] = tokenizer.bos_token_id
    for row, part in zip(given, flat, strict=True):
        row[1 : 1 + len(part)] = part
    pooled = clip.text_model(input_ids=upload(given, device)).pooler_output
    mean = np.zeros((len(parts), len(flat)), np.float32)
    owner = np.repeat(np.arange(len(parts)), [len(own) for own in parts])
    mean[owner, np.arange(len(flat))] = [1 / len(parts[row]) for row in owner]
    return upload(mean, device) @ normalize(clip.text_projection(pooled), dim=-1)


def _parts(ids: list[int], room: int) -> list[list[int]]:
    """The tokens of a text in parts of at most `room`; of an empty text one empty part."""
    return [ids[start : start + room] for start in range(0, max(1, len(ids)), room)]


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
