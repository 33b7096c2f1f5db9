"""A LLaVA of 303 M random weights for `opsearch bench --engine vllm`, and policies for it.

`python -m benchmarks.serving_model FOLDER --side 24` writes FOLDER/model, whose images have 24 x 24
visual tokens, and a policy FOLDER/RULE-BUDGET for each rule of `benchmarks.rules` and each budget
in percent. Tokenizer and processor are those of the embedded model.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForImageTextToText

from benchmarks.rules import by_rule
from opsearch.costs.shape import Shape
from opsearch.data.demo import MODEL_DIR
from opsearch.models.loading import load_config, load_processor
from training.trainer import name_tower

_PATCH = 8
_TEXT = 9  # tokens of a typical embedded question and its template
_WIDTHS = {"hidden_size": 1024, "intermediate_size": 2752, "num_attention_heads": 16}
_RULES = {"tokens": "tokens", "dop": "dop", "dop-stays": "dop, kv stays"}
_BUDGETS = (14, 30, 50)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the folder that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--side", type=int, default=24, help="visual tokens along a side")
    parser.add_argument("--layers", type=int, default=24)
    given = parser.parse_args(arguments)
    write(given.folder, given.side, given.layers)


def write(folder: Path, side: int, layers: int) -> None:
    """Write model, processor and policies.

    Args:
        folder: Folder to write to.
        side: Visual tokens along each side of an image.
        layers: Layers of the decoder.
    """
    config, processor = load_config("demo"), load_processor("demo")
    text = config.text_config
    vars(text).update(
        _WIDTHS,
        num_key_value_heads=_WIDTHS["num_attention_heads"],
        head_dim=_WIDTHS["hidden_size"] // _WIDTHS["num_attention_heads"],
        num_hidden_layers=layers,
        max_position_embeddings=4096,
    )
    pixels = side * _PATCH
    config.vision_config.image_size, config.image_seq_length = pixels, side**2
    processor.image_processor.size = {"height": pixels, "width": pixels}
    processor.image_processor.crop_size = {"height": pixels, "width": pixels}
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    model.save_pretrained(folder / "model")
    name_tower(folder / "model" / "model.safetensors")
    processor.save_pretrained(folder / "model")
    shutil.copy(MODEL_DIR / "generation_config.json", folder / "model")
    shape = Shape.from_config(config)
    for name, rule in _RULES.items():
        for budget in _BUDGETS:
            policy = by_rule(rule, budget / 100, shape, side**2, _TEXT)
            if policy is not None:
                policy.save_pretrained(folder / f"{name}-{budget}")


if __name__ == "__main__":
    main()
