"""The decoder of a model: its layers by structure, its rotary embeddings and its logits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from opsearch.models.attention import CosSin
from opsearch.models.layers import DecoderLayer, Structure, rotary, structures

if TYPE_CHECKING:
    from opsearch.models.families import ModelFamily

# Structures of decoders, valid while all their modules are the same.
_known: WeakKeyDictionary[Any, tuple[list[int], tuple[Structure, ...]]] = WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class Decoder:
    """The decoder of a multimodal model.

    Attributes:
        model: The model with its language-model head.
        module: The decoder of transformers.
        layers: Its layers.
        softcap: Bound of the logits, None without any.
    """

    model: Any
    module: Any
    layers: tuple[DecoderLayer, ...]
    softcap: float | None

    @classmethod
    def of(cls, model: Any, family: ModelFamily) -> Decoder:
        """Return the decoder of a model.

        Its layers are compared with the stock layers the first time (`opsearch.models.layers`).

        Raises:
            ModelError: A layer has a structure that cannot be pruned.
        """
        module = model.get_submodule(family.decoder)
        modules = [id(each) for each in module.modules()]
        known = _known.get(module)
        if known is None or known[0] != modules:
            _known[module] = known = (modules, structures(module))
        layers = [DecoderLayer(*pair) for pair in zip(module.layers, known[1], strict=True)]
        text = model.config.get_text_config()
        softcap = getattr(text, "final_logit_softcapping", None) if family.bounds_logits else None
        return cls(model, module, tuple(layers), softcap)

    @property
    def head(self) -> Any:
        """Language-model head."""
        return self.model.get_output_embeddings()

    @property
    def kinds(self) -> list[str]:
        """Types of attention of the layers, each once, in the order of their first layers."""
        return list(dict.fromkeys(layer.kind for layer in self.layers))

    def rotary(self, embeds: Tensor, position_ids: Tensor) -> Mapping[str, CosSin]:
        """Return cos and sin of positions for each kind of layer, see `layers.rotary`."""
        return {kind: rotary(self.module, kind, embeds, position_ids) for kind in self.kinds}

    def logits(self, states: Tensor) -> Tensor:
        """Return the logits [..., V] of outputs of the last layer, [..., D]."""
        return self.normed_logits(self.module.norm(states))

    def normed_logits(self, states: Tensor) -> Tensor:
        """Return the logits [..., V] of outputs of the decoder, [..., D]."""
        logits: Tensor = self.head(states)
        if self.softcap is None:
            return logits
        return torch.tanh(logits / self.softcap) * self.softcap
