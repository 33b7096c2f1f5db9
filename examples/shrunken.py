"""Inputs of `--smoke`: a checkpoint folder of random weights, and a few samples."""

import json
from pathlib import Path

from transformers import (
    AutoModelForImageTextToText,
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaNextConfig,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    LlavaProcessor,
)

import opsearch

SIDE, PATCH = 40, 8  # pixels; a tile has 25 tokens
TILES = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]]


def checkpoint(name: str, folder: Path, layers: int = 32) -> str:
    """Write a LLaVA-1.5 or LLaVA-NeXT with few weights per layer; return its folder as a name."""
    _, demo = opsearch.load_model("demo")
    tokenizer = demo.tokenizer
    parts = {
        "vision_config": CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=3,
            num_attention_heads=2,
            image_size=SIDE,
            patch_size=PATCH,
        ),
        "text_config": LlamaConfig(
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=layers,
            num_attention_heads=4,
            vocab_size=len(tokenizer),
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        ),
        "image_token_index": tokenizer.convert_tokens_to_ids("<image>"),
    }
    pictures = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
    settings = {
        "patch_size": PATCH,
        "num_additional_image_tokens": 1,
        "vision_feature_select_strategy": "default",
        "chat_template": demo.chat_template,
    }
    if name.startswith("llava-next"):
        config = LlavaNextConfig(**parts, image_grid_pinpoints=TILES)
        images = LlavaNextImageProcessor(**pictures, image_grid_pinpoints=TILES)
        processor = LlavaNextProcessor(images, tokenizer, **settings)
    else:
        config = LlavaConfig(**parts)
        processor = LlavaProcessor(CLIPImageProcessor(**pictures), tokenizer, **settings)
    model = AutoModelForImageTextToText.from_config(config)
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


def questions(folder: Path, count: int) -> Path:
    """Write `count` embedded samples as a data file with its images; return the file."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for i, item in enumerate(opsearch.load_items("demo", samples=count, split="train")):
        item.load_images()[0].save(folder / f"{i}.png")
        answers = list(item.answers)
        line = {"image": f"{i}.png", "question": item.question, "answers": answers}
        lines.append(json.dumps({**line, "family": item.family}))
    file = folder / "questions.jsonl"
    file.write_text("\n".join(lines))
    return file
