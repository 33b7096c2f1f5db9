"""A tiny CLIP with a text tower; its vision tower is as wide as the tiny LLaVAs'."""

import torch
from transformers import CLIPConfig, CLIPModel

from tests.support.families import folder

CONTEXT = 6


def clip_model(width=16):
    tower = {"hidden_size": width, "intermediate_size": 24, "num_hidden_layers": 2}
    tower |= {"num_attention_heads": 2, "projection_dim": 12}
    words = {"max_position_embeddings": CONTEXT, "vocab_size": 97, "eos_token_id": 2}
    tower |= {"initializer_factor": 10.0}  # with the default all texts are alike
    config = CLIPConfig(
        text_config=tower | words,
        vision_config=tower | {"image_size": 12, "patch_size": 4},
        projection_dim=12,
        initializer_factor=10.0,
    )
    torch.manual_seed(3)
    return CLIPModel(config).eval()


def saved_clip(path, width=16):
    """Write the model and its tokenizer, and return the folder."""
    clip_model(width).save_pretrained(path)
    folder.tokenizer().save_pretrained(path)
    return str(path)
