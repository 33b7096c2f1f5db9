"""Decoder layers are taken by structure, and refused where they compute anything else."""

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModel

from opsearch.errors import ModelError
from opsearch.models.decoder import Decoder
from opsearch.models.families import FAMILIES
from opsearch.models.layers import DecoderLayer, layer_kinds, rotary, structures
from opsearch.models.supported import check_supported
from opsearch.policy import builders
from tests.models.policies import RANDOM
from tests.support import tiny
from tests.support.messages import refuses

LAYERS = 3
HALF = builders.tokens(LAYERS, "1/2", RANDOM)
MIXED = {"layer_types": ["sliding_attention", "sliding_attention", "full_attention"]}
# Text models and the layout of their layers.
SUPPORTED = {
    "llama": ({}, "norms before attention and MLP"),
    "qwen3": ({}, "norms before attention and MLP"),
    "qwen3_vl_text": ({}, "norms before attention and MLP"),
    "qwen3_vl_moe_text": (
        {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
        "norms before attention and MLP",
    ),
    "gemma": ({"head_dim": 8}, "norms before attention and MLP"),
    "gemma2": ({"head_dim": 8, **MIXED}, "norms before and after attention and MLP"),
    "gemma3_text": ({"head_dim": 8, **MIXED}, "norms before and after attention and MLP"),
    "glm4v_text": (
        {
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e4,
                "mrope_section": [1, 2, 1],
            }
        },
        "norms before and after attention and MLP, as GLM-4 names them",
    ),
    "exaone4": (MIXED, "norms after attention and MLP"),
    "cohere2": (MIXED, "one norm before both, attention and MLP in parallel"),
}
# Text models that compute something else, and the piece that the message names.
REFUSED = {
    "granite": ({"residual_multiplier": 0.5}, "GraniteDecoderLayer"),
    "gemma3n_text": ({"num_kv_shared_layers": 0}, "altup"),
    "qwen3_5_text": ({}, "linear_attn"),
    "deepseek_v3": ({}, "DeepseekV3Attention"),
    "llama4_text": ({}, "feed_forward"),
    "lfm2": ({}, "feed_forward"),
    "phi3": ({}, "resid_attn_dropout"),
    "ministral3": ({"max_position_embeddings": 2**18}, "Ministral3DecoderLayer"),
}


def decoder(kind, attention="sdpa", **settings):
    """Return a random text model whose norms are no identity."""
    text = tiny.text(LAYERS)
    config = AutoConfig.for_model(kind, **{**text, **settings})
    config._attn_implementation = attention
    torch.manual_seed(0)
    with torch.inference_mode(mode=False):
        model = AutoModel.from_config(config).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "norm" in name:
                    parameter.uniform_(0.5, 1.5)
    return model


def runs():
    """Yield text models x attentions; soft-capped attention is eager."""
    for kind in SUPPORTED:
        for attention in ["eager"] if kind == "gemma2" else ["sdpa", "eager"]:
            yield kind, attention


@pytest.mark.parametrize(("kind", "attention"), list(runs()))
def test_steps_of_a_layer_give_the_stock_layer(kind, attention):
    """Beyond the rows of the check: more of them, a batch, and lower positions."""
    settings, words = SUPPORTED[kind]
    model = decoder(kind, attention, **settings)
    stream = torch.randn(2, 11, model.config.hidden_size)
    positions = torch.arange(11)[None].expand(2, -1)
    if "mrope_section" in (model.config.rope_parameters or {}):
        positions = positions.expand(3, 2, -1)
    hidden = torch.ones(11, 11, dtype=torch.bool).triu(1)
    mask = torch.zeros(2, 1, 11, 11).masked_fill(hidden, torch.finfo(torch.float32).min)
    found = structures(model)
    assert {structure.layout.words for structure in found} == {words}
    assert tuple(structure.kind for structure in found) == layer_kinds(model)
    with torch.no_grad():
        for stock, structure in zip(model.layers, found, strict=True):
            layer = DecoderLayer(stock, structure)
            cos_sin = rotary(model, layer.kind, stream, positions)
            wanted = stock(stream, attention_mask=mask, position_embeddings=cos_sin)
            normed = layer.attention_input(stream)
            k, v = layer.attention.keys_values(normed, cos_sin)
            output = layer.attention.attend(layer.attention.queries(normed, cos_sin), k, v, mask)
            after = stream + layer.attention_update(output)
            after = after + layer.mlp_update(stream if layer.parallel else after)
            torch.testing.assert_close(after, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", REFUSED)
def test_other_layers_are_refused_with_the_piece(kind):
    settings, piece = REFUSED[kind]
    with refuses(ModelError, piece, "docs/families.md"):
        structures(decoder(kind, **settings))


def test_full_layers_of_cohere_2_do_not_rotate():
    found = structures(decoder("cohere2", **MIXED))
    assert [structure.rotates for structure in found] == [True, True, False]


def test_a_layer_with_a_changed_forward_is_refused():
    """A release that scales a residual has the same parts."""
    model = tiny.llava(LAYERS)
    stock = type(model.model.language_model.layers[0])

    class Scaled(stock):
        def forward(self, hidden_states, **kwargs):
            return hidden_states + 0.9 * (super().forward(hidden_states, **kwargs) - hidden_states)

    for layer in model.model.language_model.layers:
        layer.__class__ = Scaled
    with refuses(ModelError, "Scaled", "computes something else"), HALF.apply(model):
        pass


def test_layers_that_differ_in_a_setting_are_each_compared():
    model = tiny.llava(LAYERS)
    stock = type(model.model.language_model.layers[0])

    class Scaled(stock):
        def forward(self, hidden_states, **kwargs):
            added = super().forward(hidden_states, **kwargs) - hidden_states
            return hidden_states + self.scale * added

    for number, layer in enumerate(model.model.language_model.layers):
        layer.__class__, layer.scale = Scaled, 1.0 if number < 2 else 0.9
    with refuses(ModelError, "decoder layer 2", "computes something else"), HALF.apply(model):
        pass


def test_layers_that_differ_inside_their_attention_are_each_compared():
    model = tiny.llava(LAYERS)
    layers, width = model.model.language_model.layers, model.config.text_config.hidden_size

    stock = type(layers[0].self_attn)

    class Gated(stock):
        __module__ = stock.__module__  # where its attention functions are looked up

        def forward(self, hidden_states, **kwargs):
            output, weights = super().forward(hidden_states, **kwargs)
            return (output * self.gate(output) if hasattr(self, "gate") else output), weights

    for layer in layers:
        layer.self_attn.__class__ = Gated
    layers[2].self_attn.gate = nn.Linear(width, width)
    with refuses(ModelError, "decoder layer 2", "computes something else"), HALF.apply(model):
        pass


def test_layers_with_weights_of_one_byte_are_compared():
    class Rounded(nn.Module):
        def __init__(self, stock):
            super().__init__()
            self.weight = nn.Parameter(stock.weight.to(torch.float8_e4m3fn), requires_grad=False)

        def forward(self, states):
            return nn.functional.linear(states, self.weight.to(states.dtype))

    model = tiny.llava(LAYERS)
    for layer in model.model.language_model.layers:
        layer.self_attn.q_proj = Rounded(layer.self_attn.q_proj)
    check_supported(model)


def test_each_class_of_layers_is_compared():
    model = tiny.llava(LAYERS)
    last = model.model.language_model.layers[-1]
    last.extra = nn.Linear(2, 2)
    with refuses(ModelError, "decoder layer 2", "extra (Linear)"), HALF.apply(model):
        pass


def test_a_decoder_is_compared_once_and_anew_when_a_module_is_replaced(monkeypatch):
    model, seen = tiny.llava(LAYERS), []
    stock = "opsearch.models.decoder.structures"
    monkeypatch.setattr(stock, lambda module: seen.append(module) or structures(module))
    check_supported(model)
    Decoder.of(model, FAMILIES["llava"])
    assert len(seen) == 1
    layer = model.model.language_model.layers[1]
    layer.input_layernorm = nn.LayerNorm(layer.input_layernorm.weight.shape[0])
    check_supported(model)
    assert len(seen) == 2


def test_dropout_and_training_mode_are_left_as_they_are():
    model = tiny.llava(LAYERS)
    for layer in model.model.language_model.layers:
        layer.self_attn.attention_dropout = 0.5
    model.train()
    model.model.language_model.layers[0].mlp.eval()
    before = [module.training for module in model.modules()]
    check_supported(model)
    assert [module.training for module in model.modules()] == before


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_compared_too(dtype):
    check_supported(tiny.llava(LAYERS).to(dtype))


def test_broken_weights_are_left_to_the_measurement():
    model = tiny.llava(LAYERS)
    with torch.no_grad():
        model.model.language_model.layers[0].mlp.down_proj.weight.fill_(torch.nan)
    check_supported(model)
