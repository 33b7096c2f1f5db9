"""Export as a Hugging Face folder: weights in bfloat16, tokenizer, processor, chat template."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from opsearch.data.demo import MODEL_DIR
from training.packing import IDS

_UNTRAINED = (
    "chat_template.jinja",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
)


def export(model: Any, folder: Path) -> None:
    """Write the model with all files needed to use it, except the card."""
    model.generation_config = GenerationConfig(
        bos_token_id=IDS["<bos>"],
        eos_token_id=IDS["<eos>"],
        pad_token_id=IDS["<pad>"],
        do_sample=False,
        max_new_tokens=8,
    )
    model.to("cpu", torch.bfloat16).save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # save_pretrained restricts it to its owner
    for name in _UNTRAINED:  # the same for every model of this vocabulary and picture size
        shutil.copyfile(MODEL_DIR / name, folder / name)
