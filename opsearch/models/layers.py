"""Decoder layers by structure: where they take norms, and what they add to the residual stream.

A policy prunes the attention and the MLP of a layer row by row, so that its parts must be known:
the norm before each of the two, what happens to its output before it is added, and whether the MLP
reads the stream before or after the attention's addition. `Layout` names them. A layer whose parts
fit no layout, or that computes something else with them on random rows, is refused.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from opsearch.errors import PATH, ModelError, shortened
from opsearch.models.attention import FLASH, Attention, CosSin
from opsearch.models.devices import device_of, forward_name

_ROWS = 8  # of the comparison with the stock layer
# Largest difference from the stock layer, relative to the standard deviation of what it adds. Both
# run the same kernels on the same rows, so that only the rounding of a few operations may differ.
_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8}
_HALF_PRECISION = 0.05


@dataclass(frozen=True)
class Layout:
    """Names of a decoder layer's parts beside its attention `self_attn` and its `mlp`.

    Attributes:
        words: Description.
        before_attention: Norm of the attention's input; None: it reads the stream.
        after_attention: Norm of the attention's output before it is added.
        before_mlp: Norm of the MLP's input.
        after_mlp: Norm of the MLP's output before it is added.
        parallel: True if the MLP reads the stream before the attention's output is added.
    """

    words: str
    before_attention: str | None
    after_attention: str | None
    before_mlp: str | None
    after_mlp: str | None
    parallel: bool = False

    @property
    def names(self) -> frozenset[str]:
        """Names of all parts of a layer."""
        norms = (self.before_attention, self.after_attention, self.before_mlp, self.after_mlp)
        return frozenset(norm for norm in norms if norm) | {"self_attn", "mlp"}


LAYOUTS = (
    Layout(
        "norms before attention and MLP",
        before_attention="input_layernorm",
        after_attention=None,
        before_mlp="post_attention_layernorm",
        after_mlp=None,
    ),
    Layout(
        "norms before and after attention and MLP",
        before_attention="input_layernorm",
        after_attention="post_attention_layernorm",
        before_mlp="pre_feedforward_layernorm",
        after_mlp="post_feedforward_layernorm",
    ),
    Layout(
        "norms before and after attention and MLP, as GLM-4 names them",
        before_attention="input_layernorm",
        after_attention="post_self_attn_layernorm",
        before_mlp="post_attention_layernorm",
        after_mlp="post_mlp_layernorm",
    ),
    Layout(
        "norms after attention and MLP",
        before_attention=None,
        after_attention="post_attention_layernorm",
        before_mlp=None,
        after_mlp="post_feedforward_layernorm",
    ),
    Layout(
        "one norm before both, attention and MLP in parallel",
        before_attention="input_layernorm",
        after_attention=None,
        before_mlp="input_layernorm",
        after_mlp=None,
        parallel=True,
    ),
)
"""Layouts that can be pruned. No two have equal names of parts."""


@dataclass(frozen=True)
class Structure:
    """Structure of one layer.

    Attributes:
        layout: Its parts.
        kind: Its type of attention in the config's `layer_types`; layers of one kind share their
            attention mask and rotary embeddings.
        rotates: True if its attention rotates queries and keys.
    """

    layout: Layout
    kind: str
    rotates: bool = True


@dataclass(frozen=True, eq=False)
class DecoderLayer:
    """A decoder layer, in steps that run on any rows.

    Attributes:
        module: The layer of transformers.
        structure: Its structure.
    """

    module: Any
    structure: Structure

    @property
    def attention(self) -> Attention:
        """Its attention."""
        return Attention(self.module.self_attn, self.structure.rotates)

    @property
    def kind(self) -> str:
        """Its type of attention."""
        return self.structure.kind

    @property
    def parallel(self) -> bool:
        """True if the MLP reads the stream before the attention's output is added."""
        return self.structure.layout.parallel

    @property
    def device(self) -> torch.device:
        """Device that it runs on."""
        layout = self.structure.layout
        norm = layout.before_attention or layout.after_attention
        assert norm is not None
        return device_of(getattr(self.module, norm))

    def attention_input(self, stream: Tensor) -> Tensor:
        """Return the attention's input of rows of the stream, [..., D]."""
        return self._normed(self.structure.layout.before_attention, stream)

    def attention_update(self, output: Tensor) -> Tensor:
        """Return what an output of the attention adds to the stream, [..., D]."""
        return self._normed(self.structure.layout.after_attention, output)

    def mlp_update(self, stream: Tensor) -> Tensor:
        """Return what the MLP adds to rows of the stream [B, R, D]; see `parallel`."""
        layout = self.structure.layout
        output = self.module.mlp(self._normed(layout.before_mlp, stream))
        return self._normed(layout.after_mlp, output)

    def _normed(self, norm: str | None, rows: Tensor) -> Tensor:
        normed: Tensor = rows if norm is None else getattr(self.module, norm)(rows)
        return normed


def structures(decoder: Any) -> tuple[Structure, ...]:
    """Return the structure of each layer of a decoder of transformers.

    Layers of one class, kind and set of parts are taken to be alike, and the first of them is
    compared with the stock layer.

    Raises:
        ModelError: A layer has a part that no layout has, or computes something else.
    """
    kinds = layer_kinds(decoder)
    known: dict[Any, Structure] = {}
    found = []
    for number, (layer, kind) in enumerate(zip(decoder.layers, kinds, strict=True)):
        parts = {name: type(part) for name, part in layer.named_children()}
        key = (type(layer), kind, tuple(parts.items()))
        if key not in known:
            known[key] = _structure(decoder, number, kind)
        found.append(known[key])
    return tuple(found)


def layer_kinds(decoder: Any) -> tuple[str, ...]:
    """Return the type of attention of each layer."""
    kinds = getattr(decoder.config, "layer_types", None) or ["full_attention"] * len(decoder.layers)
    return tuple(kinds[: len(decoder.layers)])


def rotary(decoder: Any, kind: str, embeds: Tensor, position_ids: Tensor) -> CosSin:
    """Return cos and sin of positions for the layers of one kind.

    Args:
        decoder: The decoder.
        kind: Type of attention.
        embeds: [B, S, D], for device and dtype.
        position_ids: int64[B or 1, S], or int64[3, B or 1, S] for time, height and width.
    """
    by_kind = "layer_type" in inspect.signature(decoder.rotary_emb.forward).parameters
    given = {"layer_type": kind} if by_kind else {}
    cos, sin = decoder.rotary_emb(embeds, position_ids, **given)
    return cos, sin


def _structure(decoder: Any, number: int, kind: str) -> Structure:
    """Return the structure of a layer; raise ModelError, naming the piece that does not fit."""
    layer = decoder.layers[number]
    layout = _layout(layer, number)
    attention = layer.self_attn
    missing = [p for p in ("q_proj", "k_proj", "v_proj", "o_proj") if not hasattr(attention, p)]
    if missing:
        raise _unknown(
            number,
            f"an attention ({type(attention).__name__}) without {', '.join(missing)}",
        )
    candidates = [Structure(layout, kind, rotates) for rotates in (True, False)]
    for structure in candidates:
        if _agrees(decoder, DecoderLayer(layer, structure)):
            return structure
    raise ModelError(
        f"decoder layer {number} ({type(layer).__name__}) has the parts of a layer with "
        f"{layout.words}, but computes something else with them, which a policy would get wrong; "
        "use a model of a family in docs/families.md"
    )


def _layout(layer: Any, number: int) -> Layout:
    """Return the layout of a layer's parts."""
    names = {name for name, _ in layer.named_children()}
    own = [name for name, _ in layer.named_parameters(recurse=False)]
    own += [name for name, _ in layer.named_buffers(recurse=False)]
    for layout in LAYOUTS:
        if layout.names == names and not own:
            return layout
    nearest = min(LAYOUTS, key=lambda layout: len(layout.names ^ names))
    odd = sorted(names - nearest.names) + own
    if odd:
        kinds = [f"{name} ({type(getattr(layer, name)).__name__})" for name in odd]
        raise _unknown(number, f"the part {', '.join(kinds)}")
    raise _unknown(number, f"no part {', '.join(sorted(nearest.names - names))}")


def _unknown(number: int, piece: str) -> ModelError:
    return ModelError(
        f"decoder layer {number} has {shortened(piece, PATH)}, which no layer that can be pruned "
        "has; use a model of a family in docs/families.md"
    )


@torch.no_grad()
def _agrees(decoder: Any, layer: DecoderLayer) -> bool:
    """Return whether a layer's steps give what the stock layer gives, on random rows."""
    attention, stock = layer.attention, layer.module
    device = layer.device
    dtype = next(p.dtype for p in stock.parameters() if p.is_floating_point())
    generator = torch.Generator().manual_seed(0)
    stream = torch.randn(1, _ROWS, decoder.config.hidden_size, generator=generator)
    stream = stream.to(device, dtype)
    positions = _last_positions(decoder).to(device)
    cos, sin = rotary(decoder, layer.kind, stream, positions)
    cos_sin = cos.to(device), sin.to(device)
    hidden = torch.ones(_ROWS, _ROWS, dtype=torch.bool).triu(1)
    lowest = torch.finfo(dtype).min
    mask = torch.zeros(1, 1, _ROWS, _ROWS, dtype=dtype).masked_fill(hidden, lowest).to(device)
    given = None if attention.implementation == FLASH else mask  # it is causal without a mask
    with _evaluating(stock):
        forward = getattr(stock, forward_name(stock))
        wanted = forward(
            stream,
            attention_mask=given,
            position_embeddings=cos_sin,
            position_ids=positions.flatten(0, -2)[:1],
            past_key_values=None,
        )
        if not isinstance(wanted, Tensor):
            return False
        if not wanted.isfinite().all():  # broken weights, which a measurement reports
            return True
        normed = layer.attention_input(stream)
        q = attention.queries(normed, cos_sin)
        k, v = attention.keys_values(normed, cos_sin)
        after = stream + layer.attention_update(attention.attend(q, k, v, given))
        after = after + layer.mlp_update(stream if layer.parallel else after)
    scale = (wanted - stream).float().std()
    worst = (after - wanted).float().abs().max() / scale
    return bool(worst <= _TOLERANCE.get(dtype, _HALF_PRECISION))


def _last_positions(decoder: Any) -> Tensor:
    """Return the last positions of a decoder, where attention that depends on them differs most.

    They are int64[1, R], or int64[3, 1, R] for time, height and width.
    """
    config = decoder.config
    last = getattr(config, "max_position_embeddings", None) or _ROWS
    positions = torch.arange(last - _ROWS, last)[None]
    scaling = getattr(config, "rope_parameters", None) or {}
    in_grid = "mrope_section" in scaling or hasattr(decoder.rotary_emb, "mrope_section")
    return positions.expand(3, 1, -1) if in_grid else positions


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Leave out dropout inside the block."""
    training = [each for each in module.modules() if each.training]
    for each in training:
        each.training = False
    try:
        yield
    finally:
        for each in training:
            each.training = True
