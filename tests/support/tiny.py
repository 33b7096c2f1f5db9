"""Tiny random models and prompts of each family, built from small configs without any download."""

import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

# Matrices this small make threads wait for each other.
torch.set_num_threads(1)

PAD, VIDEO, IMAGE, VOCAB = 0, 4, 5, 97
PATCHES = 9


def llava(layers=5, attention="sdpa", seed=0, kv_heads=2, feature_layer=-2, hidden=32):
    """Return a small LLaVA with 9 visual tokens per image and grouped-query attention."""
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=3,
            num_attention_heads=2,
            image_size=12,
            patch_size=4,
            projection_dim=16,
        ),
        text_config=LlamaConfig(**text(layers, hidden, kv_heads)),
        image_token_index=IMAGE,
        vision_feature_layer=feature_layer,
        vision_feature_select_strategy="default",
        image_seq_length=PATCHES,
    )
    return made(LlavaForConditionalGeneration, config, attention, seed)


def text(layers, hidden=32, kv_heads=2):
    """Return the settings of a decoder with grouped-query attention."""
    return {
        "hidden_size": hidden,
        "intermediate_size": 48,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": kv_heads,
        "vocab_size": VOCAB,
        "max_position_embeddings": 512,
        "pad_token_id": PAD,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }


def alternating(layers):
    """Return types of layers: one that reads a window of the last tokens, one that reads all."""
    return [("sliding_attention", "full_attention")[layer % 2] for layer in range(layers)]


def uneven_norms(model):
    """Make each norm of a model scale in its own way, so that none can stand for another."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name and name.endswith("weight"):
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


def made(kind, config, attention="sdpa", seed=0):
    """Return a random model whose answers depend on every operation."""
    torch.manual_seed(seed)
    config._attn_implementation = attention
    model = kind(config).eval()
    # Random decoders barely look at the image: larger weights make every pruned operation visible.
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Weights of experts have three dimensions.
            if "proj" in name and parameter.ndim in (2, 3):
                decoder = "language_model" in name or "text_model" in name
                parameter.mul_(4.0 if decoder else 3.0)
        # Logits of a standard deviation near 1, so that the tolerance of 1e-5 means something.
        model.lm_head.weight.mul_(8.0)
    model.generation_config.pad_token_id = PAD
    return model


def prompts(layout, seed=0, pad="left"):
    """Return a padded batch; `layout` lists the lengths of each sample's texts around its images.

    [3, 4] is 3 text tokens, an image, 4 text tokens; [5] has no image; [2, 0, 6] has two images.
    """
    generator = torch.Generator().manual_seed(seed)
    rows, images = [], 0
    for runs in layout:
        row = []
        for i, length in enumerate(runs):
            if i:
                row += [IMAGE] * PATCHES
                images += 1
            row += torch.randint(6, VOCAB, (length,), generator=generator).tolist()
        rows.append(row)
    inputs = padded(rows, pad)
    if images:
        inputs["pixel_values"] = torch.randn(images, 3, 12, 12, generator=generator)
    return inputs


def padded(rows, pad):
    """Pad rows of token ids; return input_ids and attention_mask."""
    longest = max(map(len, rows))
    ids = torch.full((len(rows), longest), PAD)
    mask = torch.zeros(len(rows), longest, dtype=torch.long)
    for b, row in enumerate(rows):
        where = slice(longest - len(row), longest) if pad == "left" else slice(0, len(row))
        ids[b, where] = torch.tensor(row)
        mask[b, where] = 1
    return {"input_ids": ids, "attention_mask": mask}
