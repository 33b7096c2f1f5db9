"""Dimensions of decoders, from which costs are computed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from opsearch.errors import ModelError, UnknownNameError, echo
from opsearch.formatting import screen_repr


@dataclass(frozen=True)
class Shape:
    """Dimensions of a decoder of identical layers with a gated MLP (gate, up, down).

    The MLP may be a mixture of experts, of which a router chooses some for each token.

    Attributes:
        layers: Number of layers.
        hidden: Width of the residual stream.
        intermediate: Width of the MLP; of all experts that a token uses together.
        heads: Number of query heads.
        kv_heads: Number of key and value heads, smaller under grouped-query attention.
        head_dim: Width of a head.
        vocab: Rows of the lm_head.
        kv_bytes_per_element: Bytes of an element of the KV cache.
        experts: Experts of an MLP, 1 without a router.
        experts_used: Experts that each token uses.
    """

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    kv_bytes_per_element: int = 2
    experts: int = 1
    experts_used: int = 1

    __repr__ = screen_repr

    @property
    def q_width(self) -> int:
        """Elements of one token's query over all heads."""
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Elements of one token's key, or of its value, over all heads."""
        return self.kv_heads * self.head_dim

    @property
    def router(self) -> int:
        """Outputs of the router of an MLP, 0 without one."""
        return self.experts if self.experts > 1 else 0

    @property
    def weights(self) -> int:
        """Elements of all matrices, with separate embeddings and lm_head."""
        attention = 2 * self.hidden * (self.q_width + self.kv_width)
        mlp = 3 * self.hidden * self.intermediate * self.experts // self.experts_used
        mlp += self.router * self.hidden
        return self.layers * (attention + mlp) + 2 * self.vocab * self.hidden

    @classmethod
    def from_config(cls, config: Any) -> Shape:
        """Return the dimensions of a transformers config, multimodal or text-only.

        The KV cache has the dtype of the config, or two bytes per element if it names none.

        Raises:
            ModelError: The layers have MLPs of different kinds, experts that all tokens use, or
                experts of unknown width.
        """
        import torch

        text = config.get_text_config()
        heads = text.num_attention_heads
        dtype = getattr(text, "dtype", None) or getattr(config, "dtype", None) or torch.bfloat16
        if isinstance(dtype, str):
            dtype = getattr(torch, dtype)
        return cls(
            layers=text.num_hidden_layers,
            hidden=text.hidden_size,
            heads=heads,
            kv_heads=getattr(text, "num_key_value_heads", None) or heads,
            head_dim=getattr(text, "head_dim", None) or text.hidden_size // heads,
            vocab=text.vocab_size,
            kv_bytes_per_element=dtype.itemsize,
            **_mlp_widths(text),
        )


# Names by which configs give the number of experts, and their MLPs that all tokens use.
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_DENSE = (
    *("shared_expert_intermediate_size", "n_shared_experts", "moe_num_shared_experts"),
    *("mlp_only_layers", "first_k_dense_replace", "moe_layer_start_index"),
)


def _mlp_widths(text: Any) -> dict[str, int]:
    """Return the widths of a decoder's MLPs, and their experts if they are mixtures."""
    if not any(getattr(text, name, None) for name in _EXPERTS):
        return {"intermediate": text.intermediate_size}
    experts = getattr(text, "num_experts", None)
    width = getattr(text, "moe_intermediate_size", None)
    dense = [name for name in _DENSE if getattr(text, name, None)]
    if getattr(text, "decoder_sparse_step", 1) != 1:
        dense.append("decoder_sparse_step")
    if dense or not (experts and width):
        reason = f"MLPs that all tokens use ({', '.join(dense)})" if dense else "no known width"
        raise ModelError(
            f"decoders of type {echo(text.model_type)} have experts with {reason}, so that their "
            "cost is not known; use a model whose layers are all alike, such as a Qwen3-VL-MoE"
        )
    used = text.num_experts_per_tok
    return {"intermediate": used * width, "experts": experts, "experts_used": used}


# The Hugging Face checkpoints of LLaVA pad Vicuna's vocabulary of 32,000 to 32,064, the size of
# their lm_head; published numbers use 32,000.
_VICUNA_7B = Shape(
    layers=32, hidden=4096, intermediate=11008, heads=32, kv_heads=32, head_dim=128, vocab=32064
)
_VICUNA_13B = Shape(
    layers=40, hidden=5120, intermediate=13824, heads=40, kv_heads=40, head_dim=128, vocab=32064
)
_QWEN_7B = Shape(
    layers=28, hidden=3584, intermediate=18944, heads=28, kv_heads=4, head_dim=128, vocab=152064
)


_QWEN3_8B = Shape(
    layers=36, hidden=4096, intermediate=12288, heads=32, kv_heads=8, head_dim=128, vocab=151936
)
_QWEN3_VL_4B = replace(_QWEN3_8B, hidden=2560, intermediate=9728)
_SMOLLM2 = Shape(
    layers=24, hidden=2048, intermediate=8192, heads=32, kv_heads=32, head_dim=64, vocab=49280
)
_GEMMA3_4B = Shape(
    layers=34, hidden=2560, intermediate=10240, heads=8, kv_heads=4, head_dim=256, vocab=262208
)
_GEMMA3_12B = Shape(
    layers=48, hidden=3840, intermediate=15360, heads=16, kv_heads=8, head_dim=256, vocab=262208
)
_MISTRAL = Shape(
    layers=40, hidden=5120, intermediate=32768, heads=32, kv_heads=8, head_dim=128, vocab=131072
)
_GLM4 = Shape(
    layers=40, hidden=4096, intermediate=13696, heads=32, kv_heads=2, head_dim=128, vocab=151552
)


@dataclass(frozen=True)
class Checkpoint:
    """A published checkpoint: its decoder, and a typical prompt.

    Attributes:
        hub_id: Id on the Hugging Face hub.
        shape: Dimensions of the decoder.
        visual_tokens: Visual tokens of a typical image.
        family: Model family, as its config names it.
        positions: Positions that its config names, scaled rotation included.
        other_tokens: Other tokens of the prompts of the GPU benchmarks.
    """

    hub_id: str
    shape: Shape
    visual_tokens: int
    family: str
    positions: int
    other_tokens: int = 65


# Visual tokens are the fixed number of LLaVA-1.5 and Gemma 3, all tiles of LLaVA-NeXT, and the
# published numbers at 896 x 896 of the others, for LLaVA-OneVision nine tiles, 81 newlines and the
# whole image, for SmolVLM2 the 17 tiles of a square image.
CHECKPOINTS: dict[str, Checkpoint] = {
    "llava-1.5-7b": Checkpoint(
        hub_id="llava-hf/llava-1.5-7b-hf",
        shape=_VICUNA_7B,
        visual_tokens=576,
        family="llava",
        positions=4096,
    ),
    "llava-1.5-13b": Checkpoint(
        hub_id="llava-hf/llava-1.5-13b-hf",
        shape=_VICUNA_13B,
        visual_tokens=576,
        family="llava",
        positions=4096,
    ),
    "llava-next-7b": Checkpoint(
        hub_id="llava-hf/llava-v1.6-vicuna-7b-hf",
        shape=_VICUNA_7B,
        visual_tokens=2880,
        family="llava_next",
        positions=4096,
    ),
    "llava-next-13b": Checkpoint(
        hub_id="llava-hf/llava-v1.6-vicuna-13b-hf",
        shape=_VICUNA_13B,
        visual_tokens=2880,
        family="llava_next",
        positions=4096,
    ),
    "qwen2.5-vl-7b": Checkpoint(
        hub_id="Qwen/Qwen2.5-VL-7B-Instruct",
        shape=_QWEN_7B,
        visual_tokens=1280,
        family="qwen2_5_vl",
        positions=128_000,
        other_tokens=45,
    ),
    "internvl3-8b": Checkpoint(
        hub_id="OpenGVLab/InternVL3-8B-hf",
        shape=replace(_QWEN_7B, vocab=151674),
        visual_tokens=1280,
        family="internvl",
        positions=65_536,
    ),
    "llava-onevision-7b": Checkpoint(
        hub_id="llava-hf/llava-onevision-qwen2-7b-ov-hf",
        shape=replace(_QWEN_7B, vocab=152128),
        visual_tokens=7371,
        family="llava_onevision",
        positions=32_768,
    ),
    "qwen2-vl-7b": Checkpoint(
        hub_id="Qwen/Qwen2-VL-7B-Instruct",
        shape=_QWEN_7B,
        visual_tokens=1280,
        family="qwen2_vl",
        positions=32_768,
        other_tokens=45,
    ),
    "qwen3-vl-4b": Checkpoint(
        hub_id="Qwen/Qwen3-VL-4B-Instruct",
        shape=_QWEN3_VL_4B,
        visual_tokens=784,
        family="qwen3_vl",
        positions=262_144,
        other_tokens=45,
    ),
    "qwen3-vl-8b": Checkpoint(
        hub_id="Qwen/Qwen3-VL-8B-Instruct",
        shape=_QWEN3_8B,
        visual_tokens=784,
        family="qwen3_vl",
        positions=262_144,
        other_tokens=45,
    ),
    "internvl3.5-8b": Checkpoint(
        hub_id="OpenGVLab/InternVL3_5-8B-HF",
        shape=_QWEN3_8B,
        visual_tokens=1280,
        family="internvl",
        positions=40_960,
    ),
    "smolvlm2-2.2b": Checkpoint(
        hub_id="HuggingFaceTB/SmolVLM2-2.2B-Instruct",
        shape=_SMOLLM2,
        visual_tokens=1377,
        family="smolvlm",
        positions=8192,
    ),
    "gemma-3-4b": Checkpoint(
        hub_id="google/gemma-3-4b-it",
        shape=_GEMMA3_4B,
        visual_tokens=256,
        family="gemma3",
        positions=131_072,
    ),
    "gemma-3-12b": Checkpoint(
        hub_id="google/gemma-3-12b-it",
        shape=_GEMMA3_12B,
        visual_tokens=256,
        family="gemma3",
        positions=131_072,
    ),
    "mistral-small-3.1-24b": Checkpoint(
        hub_id="mistralai/Mistral-Small-3.1-24B-Instruct-2503",
        shape=_MISTRAL,
        visual_tokens=1024,
        family="mistral3",
        positions=131_072,
    ),
    "glm-4.1v-9b": Checkpoint(
        hub_id="zai-org/GLM-4.1V-9B-Thinking",
        shape=_GLM4,
        visual_tokens=1024,
        family="glm4v",
        positions=65_536,
        other_tokens=45,
    ),
}
"""Checkpoints by the names that `--shape` takes."""


def known_checkpoint(name: str) -> Checkpoint:
    """Return a checkpoint by the name that `--shape` takes or by its hub id, in any case.

    Raises:
        UnknownNameError: There is none of this name.
    """
    named = {key.casefold(): each for key, each in CHECKPOINTS.items()}
    named |= {each.hub_id.casefold(): each for each in CHECKPOINTS.values()}
    if name.casefold() not in named:
        hub_ids = [each.hub_id for each in CHECKPOINTS.values()]
        raise UnknownNameError("shape", name, [*CHECKPOINTS, *hub_ids])
    return named[name.casefold()]
