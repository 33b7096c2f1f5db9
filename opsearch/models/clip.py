"""Image and text embeddings of a CLIP model, for rankers that compare patches with the question.

Multimodal checkpoints contain neither CLIP's text tower nor its projections into the joint space.
Both are loaded from a folder or hub id of the CLIP model that the vision tower was taken from. Only
the width of its vision tower is checked against the model's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from opsearch.errors import PATH, ModelError, echo, shortened
from opsearch.models.devices import device_of_inputs
from opsearch.models.pretrained import load_part, load_tensors
from opsearch.rankers.base import CLIP_QUESTION, Prompt
from opsearch.rankers.upload import upload


def clip_unsupported_reason(folder: str, config: Any) -> str | None:
    """Return why the CLIP model cannot be used with this config, None if it can."""
    from transformers import AutoConfig

    if reason := not_clip_reason(config):
        return reason
    try:
        clip = load_part("model", AutoConfig, folder)
    except ModelError as error:
        named = f"clip={shortened(folder, PATH)}"
        return f"{named} is neither a folder of a CLIP model nor a reachable hub id ({error})"
    if clip.model_type != "clip":
        kind = echo(clip.model_type)
        named = f"clip={shortened(folder, PATH)}"
        return f"{named} holds a model of type {kind} and not a whole CLIP model"
    width, own = clip.vision_config.hidden_size, config.vision_config.hidden_size
    if width != own:
        return (
            f"the vision tower in clip={shortened(folder, PATH)} has width {width} and the "
            f"model's has {own}, so they are different towers"
        )
    return None


def not_clip_reason(config: Any) -> str | None:
    """Return why the vision tower of this config is not CLIP's, None if it is."""
    kind = config.vision_config.model_type
    return (
        None
        if kind == "clip_vision_model"
        else f"its vision tower is of type {echo(kind)}, not CLIP's"
    )


def joint_patches(folder: str, patches: Tensor) -> Tensor:
    """Project patches of the tower's last layer to CLIP's joint space, float32[images, P, D]."""
    clip = _clip(folder, patches.device)
    projected: Tensor = clip.visual_projection(clip.vision_model.post_layernorm(patches.float()))
    return projected


def read_question(model: Any, needs: Iterable[str], prompt: Prompt, input_ids: Tensor) -> None:
    """Store CLIP's embedding of each question, [B, D], in `prompt.captured` if `needs` names it.

    A question longer than CLIP's context is split into segments, whose embeddings are averaged.
    Synchronizes with the device once, to decode the token ids.
    """
    for folder in clip_folders(needs):
        tokenizer = _tokenizer(model.config.name_or_path)
        rows = torch.where(prompt.question(), input_ids, -1).tolist()
        kept = [[token for token in row if token >= 0] for row in rows]
        texts = [tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in kept]
        prompt.captured[CLIP_QUESTION + folder] = _text_embeddings(folder, texts, input_ids.device)


def clip_folders(needs: Iterable[str]) -> list[str]:
    """Return the folders or hub ids of the CLIP models that these needs name."""
    return sorted(n.removeprefix(CLIP_QUESTION) for n in needs if n.startswith(CLIP_QUESTION))


def clip_parts(model: Any, folder: str) -> tuple[Any, list[Any]]:
    """Return the CLIP model of a folder, and the tokenizers that ranking by it uses."""
    tokenizers = [_tokenizer(each) for each in (model.config.name_or_path, folder)]
    return _clip(folder, device_of_inputs(model)), tokenizers


def _text_embeddings(folder: str, texts: Sequence[str], device: torch.device) -> Tensor:
    """Return the mean of the normalized segment embeddings of each text, float32[B, D]."""
    clip, tokenizer = _clip(folder, device), _tokenizer(folder)
    length = clip.config.text_config.max_position_embeddings - 2
    segments = [
        _segments(tokenizer(text, add_special_tokens=False)["input_ids"], length) for text in texts
    ]
    flat = [segment for of_text in segments for segment in of_text]
    # Attention is causal and pooling reads the first EOS, so padding with EOS needs no mask.
    ids = np.full((len(flat), 2 + max(map(len, flat))), tokenizer.eos_token_id)
    ids[:, 0] = tokenizer.bos_token_id
    for row, segment in zip(ids, flat, strict=True):
        row[1 : 1 + len(segment)] = segment
    pooled = clip.text_model(input_ids=upload(ids, device)).pooler_output
    mean = np.zeros((len(segments), len(flat)), np.float32)
    owner = np.repeat(np.arange(len(segments)), [len(of_text) for of_text in segments])
    mean[owner, np.arange(len(flat))] = [1 / len(segments[row]) for row in owner]
    return upload(mean, device) @ normalize(clip.text_projection(pooled), dim=-1)


def _segments(ids: list[int], length: int) -> list[list[int]]:
    """Split token ids into segments of at most `length`; an empty text has one empty segment."""
    return [ids[start : start + length] for start in range(0, max(1, len(ids)), length)]


@lru_cache(maxsize=1)
def _clip(folder: str, device: torch.device) -> Any:
    """Load the CLIP model in float32; cached, because every prefill uses it."""
    from transformers import CLIPModel

    return load_tensors(CLIPModel, folder, dtype=torch.float32).eval().to(device)


@lru_cache(maxsize=2)
def _tokenizer(folder: str) -> Any:
    from transformers import AutoTokenizer

    try:
        return load_part("tokenizer", AutoTokenizer, folder)
    except ModelError as error:
        raise ModelError(
            f"{error}; without the tokenizer of {echo(folder, PATH)} the question cannot be read "
            "for CLIP"
        ) from error
