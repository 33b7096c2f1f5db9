"""Decoder layers by structure: where they take norms, and what they add to the residual stream.

A policy prunes the attention and the MLP of a layer row by row, so that its parts must be known:
the norm before each of the two, what happens to its output before it is added, and whether the MLP
reads the stream before or after the attention's addition. `Layout` names them. A layer whose parts
fit no layout, or that computes something else with them on random rows, is refused.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from opsearch.errors import PATH, ModelError, one_line, shortened
from opsearch.models.attention import FLASH, Attention, CosSin
from opsearch.models.devices import device_of, forward_name

_ROWS = 8  # of the comparison with the stock layer
# Largest difference from the stock layer, relative to the standard deviation of what it adds. Both
# run the same kernels on the same rows, so that only the rounding of a few operations may differ.
_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8}
_HALF_PRECISION = 0.05
_NUMBERS = ("layer_idx", "training")  # attributes in which layers differ without being others


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

    def output(self, stream: Tensor, cos_sin: CosSin, mask: Tensor | None) -> Tensor:
        """Return the layer's output of all rows [B, S, D].

        Args:
            stream: Its input, [B, S, D].
            cos_sin: Rotary embeddings, [B, S, hd] each.
            mask: Attention mask [B, 1, S, S].
        """
        attention, normed = self.attention, self.attention_input(stream)
        keys_values = attention.keys_values(normed, cos_sin)
        attended = attention.attend(attention.queries(normed, cos_sin), *keys_values, mask)
        after = stream + self.attention_update(attended)
        return after + self.mlp_update(stream if self.parallel else after)

    def _normed(self, norm: str | None, rows: Tensor) -> Tensor:
        normed: Tensor = rows if norm is None else getattr(self.module, norm)(rows)
        return normed


def structures(decoder: Any) -> tuple[Structure, ...]:
    """Return the structure of each layer of a decoder of transformers.

    Layers of one kind, with modules of equal classes and equal settings, are taken to be alike; the
    first of them is compared with the stock layer.

    Raises:
        ModelError: A layer has a part that no layout has, or computes something else.
    """
    kinds = layer_kinds(decoder)
    known: dict[Any, Structure] = {}
    found = []
    for number, (layer, kind) in enumerate(zip(decoder.layers, kinds, strict=True)):
        parts = tuple((name, type(part)) for name, part in layer.named_modules())
        key = (kind, parts, *map(_settings, (layer, *layer.children())))
        if key not in known:
            known[key] = _structure(decoder, number, kind)
        found.append(known[key])
    return tuple(found)


def _settings(module: Any) -> tuple[tuple[str, Any], ...]:
    """Return the plain attributes of a module, such as whether an attention rotates."""
    plain = (bool, int, float, str, type(None))
    return tuple(
        (name, value)
        for name, value in vars(module).items()
        if type(value) in plain and not name.startswith("_") and name not in _NUMBERS
    )


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
    reason = ""
    try:
        found = [_difference(decoder, DecoderLayer(layer, each)) for each in candidates]
        nearest = min(range(len(found)), key=found.__getitem__)
        if found[nearest] <= 1:
            return candidates[nearest]
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # of any kind, as layers of unknown releases take other inputs
        reason = f" ({shortened(one_line(str(error)), PATH)})"
    raise ModelError(
        f"decoder layer {number} ({type(layer).__name__}) has the parts of a layer with "
        f"{layout.words}, but computes something else with them{reason}, which a policy would get "
        "wrong; use a model of a family in docs/families.md"
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
def _difference(decoder: Any, layer: DecoderLayer) -> float:
    """Return how far a layer's steps are from the stock layer on random rows, see `difference`."""
    stock, positions = layer.module, _last_positions(decoder).to(layer.device)
    stream = random_rows(decoder, layer)
    if stream.is_meta:  # shapes without numbers
        return 0.0
    mask = causal_mask(layer, stream)
    cos, sin = rotary(decoder, layer.kind, stream, positions)
    cos_sin = cos.to(layer.device), sin.to(layer.device)
    with evaluating(stock):
        forward = getattr(stock, forward_name(stock))
        wanted = forward(
            stream,
            attention_mask=mask,
            position_embeddings=cos_sin,
            position_ids=positions.flatten(0, -2)[:1],
            past_key_values=None,
        )
        if not isinstance(wanted, Tensor):
            return math.inf
        if not wanted.isfinite().all():  # broken weights, which a measurement reports
            return 0.0
        found = layer.output(stream, cos_sin, mask)
    return difference(found - stream, wanted - stream)


def random_rows(decoder: Any, layer: DecoderLayer) -> Tensor:
    """Return random inputs of a layer, [1, R, D]."""
    # Not that of quantized weights, which have one byte.
    weights = (p for p in layer.module.parameters() if p.is_floating_point())
    dtype = next(weight.dtype for weight in weights if weight.element_size() > 1)
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(1, _ROWS, decoder.config.hidden_size, generator=generator)
    return rows.to(layer.device, dtype)


def causal_mask(layer: DecoderLayer, rows: Tensor) -> Tensor | None:
    """Return the causal mask [1, 1, R, R] of rows; None for FlashAttention, which needs none."""
    if layer.attention.implementation == FLASH:
        return None
    length = rows.shape[1]
    hidden = torch.ones(length, length, dtype=torch.bool, device=rows.device).triu(1)
    return rows.new_zeros(1, 1, length, length).masked_fill(hidden, torch.finfo(rows.dtype).min)


def difference(found: Tensor, wanted: Tensor) -> float:
    """Return the largest difference of numbers, in units of what rounding may explain."""
    worst = (found - wanted).float().abs().max() / wanted.float().std()
    return float(worst) / _TOLERANCE.get(wanted.dtype, _HALF_PRECISION)


def _last_positions(decoder: Any) -> Tensor:
    """Return the last positions of a decoder, where attention that depends on them differs most.

    They are int64[1, R], or int64[3, 1, R] for time, height and width.
    """
    config = decoder.config
    last = getattr(config, "max_position_embeddings", None) or _ROWS
    positions = torch.arange(last - _ROWS, last)[None]
    return positions.expand(3, 1, -1) if in_grid(decoder) else positions


def in_grid(decoder: Any) -> bool:
    """Return whether positions are those in time, height and width."""
    scaling = getattr(decoder.config, "rope_parameters", None) or {}
    return "mrope_section" in scaling or hasattr(decoder.rotary_emb, "mrope_section")


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Leave out dropout inside the block."""
    training = [each for each in module.modules() if each.training]
    for each in training:
        each.training = False
    try:
        yield
    finally:
        for each in training:
            each.training = True
