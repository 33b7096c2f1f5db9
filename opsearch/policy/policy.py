"""A policy: the number of ranked visual tokens that each decoder operation processes.

An operation is one module of one decoder layer: `q` (queries and attention output of the visual
tokens), `kv` (their keys and values) or `mlp`. A count of n means the first n tokens of the
sample's ranking; the others pass through on the residual stream. The sets of tokens are therefore
nested, and one table of counts expresses any method that keeps a subset of the tokens.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from opsearch.errors import PolicyError, echo, shortened
from opsearch.formatting import brief, counts_of_equal, on_screen
from opsearch.policy.counts import (
    MODULES,
    Counts,
    Unit,
    exact_count,
    resolve_fraction,
    resolve_recipe,
)
from opsearch.policy.images import ImageSetting
from opsearch.policy.ranker import RankerSpec
from opsearch.policy.schedule import Schedule, schedule

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from opsearch.models.pruned.applied import Installed
    from opsearch.models.pruned.cuda_graphs import Graphs


@dataclass(frozen=True)
class Policy:
    """Counts over (q, kv, mlp) for each decoder layer, and the rankers that order the tokens.

    Attributes:
        counts: (q, kv, mlp) of each layer, as exact fractions of the sample's visual tokens (unit
            "fraction"; "recipe" if they are the tokens left by deletions in each layer) or as
            numbers of tokens (unit "tokens"). Whole numbers and texts such as "9/16" are taken,
            too; floats are errors.
        unit: Unit of the counts.
        rankers: Pairs (layer, spec). The ranker acts before that layer; at layer 0 it acts before
            the decoder, unless it reads the decoder's attention.
        name: Name for reports.
        model_type: Model family that the policy was searched for; None: any.
        provenance: Facts for readers of the file (budget, objective, seed, ...).
        images: Image setting under which the policy was searched; None: the processor's own.
    """

    counts: tuple[tuple[Fraction, Fraction, Fraction], ...]
    unit: Unit = "fraction"
    rankers: tuple[tuple[int, RankerSpec], ...] = ()
    name: str = "custom"
    model_type: str | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict, compare=False)
    images: ImageSetting | None = None

    def __post_init__(self) -> None:
        if not self.counts:
            raise PolicyError("the policy has no layers; give counts for at least one layer")
        if self.unit not in (units := get_args(Unit)):
            raise PolicyError(
                f"unit {echo(self.unit)} is unknown; use one of {', '.join(map(repr, units))}"
            )
        self._make_counts_exact()
        for layer, triple in enumerate(self.counts):
            for module, count in zip(MODULES, triple, strict=True):
                self._check_count(layer, module, count)
        layers = [layer for layer, _ in self.rankers]
        for layer in set(layers):
            if layers.count(layer) > 1:
                both = " and ".join(shortened(spec) for at, spec in self.rankers if at == layer)
                raise PolicyError(f"{both} act before layer {layer}; give one ranker per layer")
        for layer, _ in self.rankers:
            if not 0 <= layer < self.num_layers:
                raise PolicyError(
                    f"a ranker acts before layer {layer}, but the policy has layers "
                    f"0 to {self.num_layers - 1}; use one of these"
                )

    def _make_counts_exact(self) -> None:
        """Take whole numbers and texts as fractions, and lists as tuples.

        Raises:
            PolicyError: A layer has not one exact count per module.
        """
        rows = []
        for layer, triple in enumerate(self.counts):
            if isinstance(triple, str) or len(triple) != len(MODULES):
                raise PolicyError(
                    f"layer {layer} has {len(triple)} counts; give one for each of "
                    f"{', '.join(MODULES)}"
                )
            try:
                rows.append(tuple(map(exact_count, triple)))
            except ValueError as error:
                raise PolicyError(f"a count of layer {layer} is {error}") from None
        object.__setattr__(self, "counts", tuple(rows))

    def _check_count(self, layer: int, module: str, count: Fraction) -> None:
        too_large = self.unit != "tokens" and count > 1
        broken = self.unit == "tokens" and count.denominator != 1
        if count < 0 or too_large or broken:
            allowed = "whole tokens" if self.unit == "tokens" else "a fraction from 0 to 1"
            raise PolicyError(
                f"count {shortened(brief(count))} of {module} in layer {layer} is not {allowed}; "
                f"give one, or use the other unit (unit is {echo(self.unit)})"
            )

    @property
    def num_layers(self) -> int:
        """Number of decoder layers."""
        return len(self.counts)

    def __repr__(self) -> str:
        facts: dict[str, object] = {"name": self.name, "layers": self.num_layers, "unit": self.unit}
        if self.model_type is not None:
            facts["model_type"] = self.model_type
        if self.images is not None:
            facts["images"] = str(self.images)
        facts["rankers"] = {layer: str(spec) for layer, spec in self.rankers}
        rows = (
            f"  {module:3} {counts_of_equal(triple[column] for triple in self.counts)}"
            for column, module in enumerate(MODULES)
        )
        return "\n".join((on_screen("Policy", facts), *rows))

    def resolve(self, n_visual: int) -> Counts:
        """Return the counts for a sample of `n_visual` tokens, int64[L, 3].

        A fraction f of N tokens is floor(f N + 1/2), at least 1 if f > 0. In a recipe, each
        deletion is rounded down. Numbers of tokens are limited to N.
        """
        memo: dict[int, int] = {}  # by identity, because hashing a fraction takes longer
        fractions = {id(count): count for triple in self.counts for count in triple}
        left = resolve_recipe(fractions.values(), n_visual) if self.unit == "recipe" else {}
        for count in fractions.values():
            if left:
                memo[id(count)] = left[count]
            elif self.unit == "tokens":
                memo[id(count)] = min(int(count), n_visual)
            else:
                memo[id(count)] = resolve_fraction(count, n_visual)
        rows = [[memo[id(count)] for count in triple] for triple in self.counts]
        return np.array(rows, np.int64)

    def live(self, n_visual: int) -> Counts:
        """Return the resolved counts without dead operations, int64[L, 3]."""
        return self.schedule(n_visual).live

    def executed(self, n_visual: int) -> Counts:
        """Return the executed counts, int64[L, 3]: the live ones, or all if nothing is pruned."""
        return self.resolve(n_visual) if self.is_identity(n_visual) else self.live(n_visual)

    def candidates(self, n_visual: int) -> dict[int, int]:
        """Return the number of candidates of each reranking, by the layer it takes effect at.

        Rerankings that change no selection are left out.
        """
        return {each.layer: each.candidates for each in self.schedule(n_visual).rerankings}

    def schedule(self, n_visual: int, *, all_rows: bool = False) -> Schedule:
        """Return the live counts and the rerankings on a sample of `n_visual` tokens.

        With `all_rows` no operation is dead, see `schedule`.
        """
        return schedule(self, n_visual, all_rows=all_rows)

    def is_identity(self, n_visual: int) -> bool:
        """Return whether a sample of `n_visual` tokens is not pruned at all."""
        return bool((self.resolve(n_visual) == n_visual).all())

    def canonical(self, n_visual: int) -> str:
        """Return the key that policies share if they act equally on `n_visual` tokens (SHA-256)."""
        found = self.schedule(n_visual)
        rankers: list[tuple[int | str, ...]] = [
            # Dead operations make no difference but here: they can be among the candidates.
            (each.ranker_layer, str(each.spec), each.layer, each.candidates)
            for each in found.rerankings
        ]
        if found.kept:
            rankers += [(r, str(spec)) for r, spec in self.rankers if r == 0]
        payload = json.dumps([int(n_visual), found.live.tolist(), sorted(set(rankers))])
        return hashlib.sha256(payload.encode()).hexdigest()

    def digest(self) -> str:
        """Return a digest of all that answers depend on in the policy (SHA-256)."""
        counts = [[str(count) for count in triple] for triple in self.counts]
        rankers = [(layer, str(spec)) for layer, spec in self.rankers]
        images = [] if self.images is None else [self.images.attributes]
        facts = [self.unit, counts, rankers, *images]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def processor(self, processor: Any) -> Any:
        """Return the processor that encodes prompts for this policy.

        It is a copy with the image setting of the policy, or `processor` itself if there is none.

        Args:
            processor: The model's processor.

        Raises:
            PolicyError: The setting is not one of this processor.
        """
        return processor if self.images is None else self.images.applied(processor)

    def apply(
        self, model: PreTrainedModel, *, graphs: Graphs | None = None
    ) -> AbstractContextManager[PreTrainedModel]:
        """Return a context manager that makes `model` prefill with this policy.

        Nothing happens before its block; it warns if it is dropped without having had one. The
        prompts of a policy with an image setting are encoded by `processor`.

        Args:
            model: A model of a supported family.
            graphs: CUDA graphs to replay for prompts of equal shapes, e.g. Graphs().
        """
        from opsearch.models.pruned.applied import Applied

        return Applied(model, (self,), graphs)

    def install(self, model: PreTrainedModel, *, graphs: Graphs | None = None) -> Installed:
        """Make `model` prefill with this policy until `remove()` of the returned handle.

        Args:
            model: A model of a supported family.
            graphs: CUDA graphs to replay for prompts of equal shapes, e.g. Graphs().

        Raises:
            PolicyError: The policy does not fit the model, or another policy is already applied.
            ModelError: The model cannot be pruned.
        """
        from opsearch.models.pruned.applied import Installed

        return Installed(model, (self,), graphs)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write policy_config.json into `folder` (created if missing) and return its path."""
        # It imports pydantic, which applying a policy does not need.
        from opsearch.policy.file import write_policy

        return write_policy(self, Path(folder))

    @classmethod
    def from_pretrained(cls, path: str | Path) -> Policy:
        """Read a policy from a folder with policy_config.json or from the file itself."""
        from opsearch.policy.file import read_fields

        return cls(**read_fields(Path(path)))

    @classmethod
    def from_text(cls, text: str, file: Path) -> Policy:
        """Return the policy from the text of `file`, or raise PolicyError."""
        from opsearch.policy.file import parse_fields

        return cls(**parse_fields(text, file))
