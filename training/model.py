"""The model: a LLaVA of transformers, and its forward pass over packed sequences.

The modules that are exported are those that are trained. Only the forward pass is written out here,
because it needs every layer's output and attention that follows the packing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from opsearch.data.demo.canvas import SIZE
from opsearch.data.demo.vocabulary import TOKENS
from training import attention
from training.packing import IDS, PREFIX, PROMPT, positions
from training.things import PATCH, VISUAL

LAYERS = 12
WIDTH = 128
VISION_WIDTH = 96


def config() -> LlavaConfig:
    """Return the architecture: 2,487,680 parameters."""
    vision = CLIPVisionConfig(
        image_size=SIZE,
        patch_size=PATCH,
        hidden_size=VISION_WIDTH,
        intermediate_size=2 * VISION_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=3,
        projection_dim=VISION_WIDTH,
    )
    text = LlamaConfig(
        vocab_size=len(TOKENS),
        hidden_size=WIDTH,
        intermediate_size=320,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=256,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        pad_token_id=IDS["<pad>"],
        bos_token_id=IDS["<bos>"],
        eos_token_id=IDS["<eos>"],
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=IDS["<image>"],
        image_seq_length=VISUAL,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
    )


@torch.no_grad()
def build(seed: int) -> Any:
    """Return a new model in float32 with random weights."""
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(config())
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.zero_()
        elif parameter.ndim > 1:
            parameter.normal_(std=_spread(name, parameter))
    model.model.vision_tower.embeddings.class_embedding.normal_(std=0.02)
    return model


def load(folder: Path) -> Any:
    """Return an exported model in float32, for further training."""
    return LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)


def _spread(name: str, parameter: Tensor) -> float:
    """Return the standard deviation of a matrix at initialisation."""
    fan_in = parameter[0].numel()
    if "position_embedding" in name:
        return 0.3
    if "embed_tokens" in name or "patch_embedding" in name or "projector" in name:
        return float(fan_in**-0.5)
    if "o_proj" in name or "down_proj" in name:  # these add to the residual stream, 2 L times
        return float(0.8 * fan_in**-0.5 * (2 * LAYERS) ** -0.5)
    if "out_proj" in name or "fc2" in name:
        return float(0.4 * fan_in**-0.5)
    return float(0.8 * fan_in**-0.5)


def see(model: Any, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the tower's CLS, [B, VISION_WIDTH], and the visual tokens, [B, VISUAL, WIDTH]."""
    tower = model.model.vision_tower
    x = tower.pre_layrnorm(tower.embeddings(pixels))
    for layer in tower.encoder.layers:
        x = layer(x, attention_mask=None)
    return x[:, 0], model.model.multi_modal_projector(x[:, 1:])


def read(model: Any, visual: Tensor, tokens: Tensor | None, layers: int = LAYERS) -> list[Tensor]:
    """Return the hidden states after each of the first `layers` decoder layers, [B, T, WIDTH].

    Args:
        model: The model.
        visual: Visual tokens, [B, VISUAL, WIDTH].
        tokens: Token ids of the slots, [B, K, SLOT]; None to run the prefix only.
        layers: Layers to run.
    """
    decoder = model.model.language_model
    slots = 0 if tokens is None else tokens.shape[1]
    prompt = torch.tensor([IDS[word] for word in PROMPT], device=visual.device)
    parts = [decoder.embed_tokens(prompt).expand(len(visual), -1, -1), visual]
    if tokens is not None:
        parts.append(decoder.embed_tokens(tokens.flatten(1)))
    x = torch.cat(parts, 1)
    rotary = decoder.rotary_emb(x, positions(slots).to(x.device))
    states = []
    for layer in decoder.layers[:layers]:
        x = layer(x, position_embeddings=rotary)
        states.append(x)
    return states


def logits(model: Any, states: Tensor) -> Tensor:
    """Return the logits for states of the last layer, in float32."""
    result: Tensor = model.lm_head(model.model.language_model.norm(states)).float()
    return result


def slots_of(states: Tensor, slots: int) -> Tensor:
    """Return the slots' rows of packed states, [B, K, SLOT, WIDTH]."""
    rows: Tensor = states[:, PREFIX:].unflatten(1, (slots, -1))
    return rows


def visual_of(states: Tensor) -> Tensor:
    """Return the visual tokens' rows of packed states, [B, VISUAL, WIDTH]."""
    return states[:, len(PROMPT) : PREFIX]


def prepare(model: Any, compiled: bool) -> None:
    """Set the decoder's attention to the packed one; compile the layers of tower and decoder."""
    model.model.language_model.set_attn_implementation(attention.NAME)
    if not compiled:
        return
    layers: list[nn.Module] = [
        *model.model.vision_tower.encoder.layers,
        *model.model.language_model.layers,
    ]
    for layer in layers:
        layer.compile(dynamic=False)
