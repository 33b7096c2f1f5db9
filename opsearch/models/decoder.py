"""The decoder of a model: its layers by structure, its rotary embeddings and its logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from opsearch.errors import PATH, ModelError, one_line, shortened
from opsearch.models.attention import CosSin
from opsearch.models.families import DECODERS, ModelFamily
from opsearch.models.layers import (
    DecoderLayer,
    Structure,
    causal_mask,
    difference,
    evaluating,
    in_grid,
    random_rows,
    rotary,
    structures,
)

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

        The first time, its layers are compared with the stock ones (`opsearch.models.layers`), and
        the whole decoder where a family or its decoder is not tested.

        Raises:
            ModelError: A layer has a structure that cannot be pruned.
        """
        module = model.get_submodule(family.decoder)
        modules = [id(each) for each in module.modules()]
        known = _known.get(module)
        if known is None or known[0] != modules:
            decoder = cls._assembled(model, module, structures(module), family)
            if not family.tested or module.config.model_type not in DECODERS:
                decoder._check_whole()
            _known[module] = (modules, tuple(layer.structure for layer in decoder.layers))
            return decoder
        return cls._assembled(model, module, known[1], family)

    @classmethod
    def _assembled(
        cls, model: Any, module: Any, found: Sequence[Structure], family: ModelFamily
    ) -> Decoder:
        layers = [DecoderLayer(*pair) for pair in zip(module.layers, found, strict=True)]
        text = model.config.get_text_config()
        softcap = getattr(text, "final_logit_softcapping", None) if family.bounds_logits else None
        return cls(model, module, tuple(layers), softcap)

    def _check_whole(self) -> None:
        """Raise ModelError unless the layers alone give what the decoder gives, on random rows."""
        name = f"the decoder of a {type(self.model).__name__} ({type(self.module).__name__})"
        try:
            agrees = self._agrees()
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # of any kind, as decoders of unknown releases take other inputs
            reason = shortened(one_line(str(error)), PATH)
            raise ModelError(
                f"{name} does not run on plain rows ({reason}), so that it cannot be compared with "
                "its layers; use a model of a family in docs/families.md"
            ) from error
        if not agrees:
            raise ModelError(
                f"{name} adds something between its layers, which a policy would get wrong; use a "
                "model of a family in docs/families.md"
            )

    @torch.no_grad()
    def _agrees(self) -> bool:
        """Return whether the layers alone give what the decoder gives, on random rows."""
        states = rows = random_rows(self.module, self.layers[0])
        positions = torch.arange(rows.shape[1], device=rows.device)[None]
        if in_grid(self.module):
            positions = positions.expand(3, 1, -1)
        with evaluating(self.module):
            wanted = self.module(
                inputs_embeds=rows, position_ids=positions, use_cache=False
            ).last_hidden_state
            cos_sin = self.rotary(rows, positions)
            for layer in self.layers:
                cos, sin = (each.to(layer.device) for each in cos_sin[layer.kind])
                states = states.to(layer.device)
                states = layer.output(states, (cos, sin), causal_mask(layer, states))
            found = self.module.norm(states)
        if not wanted.isfinite().all():  # broken weights, which a measurement reports
            return True
        return difference(found.to(wanted.device), wanted) <= 1

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
