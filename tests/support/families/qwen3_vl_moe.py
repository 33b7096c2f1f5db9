"""Qwen3-VL with experts: Qwen3-VL's parts, and MLPs of which each token takes two of four."""

from transformers import Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration

from tests.support import tiny
from tests.support.families import qwen3_vl

SIZES, AROUND, VIDEO = qwen3_vl.SIZES, qwen3_vl.AROUND, qwen3_vl.VIDEO
tokens, pixels, video_pixels = qwen3_vl.tokens, qwen3_vl.pixels, qwen3_vl.video_pixels
scores, features, received = qwen3_vl.scores, qwen3_vl.features, qwen3_vl.received
positions, given_positions = qwen3_vl.positions, qwen3_vl.given_positions
processor = qwen3_vl.processor
EXPERTS = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "mlp_only_layers": [],
}


def model(layers, attention="sdpa"):
    config = Qwen3VLMoeConfig(
        vision_config=qwen3_vl.VISION,
        text_config=qwen3_vl.text(layers) | EXPERTS,
        **qwen3_vl.IDS,
    )
    made = tiny.made(Qwen3VLMoeForConditionalGeneration, config, attention)
    return tiny.uneven_norms(made)
