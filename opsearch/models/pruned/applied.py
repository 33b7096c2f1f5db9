"""Context manager of `policy.apply(model)`, and handle of `policy.install(model)`."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING

from opsearch.models.pruned.apply import apply_policies
from opsearch.models.pruned.cuda_graphs import Graphs
from opsearch.models.pruned.execution import Selector
from opsearch.policy.policy import Policy

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Applied(AbstractContextManager["PreTrainedModel"]):
    """A policy on a model inside `with` blocks; a warning if it is dropped without any.

    Args:
        model: Model with its language-model head.
        policies: The policy, or several of which each sample runs one.
        graphs: CUDA graphs, None for eager execution.
        selector: Chooses among several policies; None: there is one.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        policies: Sequence[Policy],
        graphs: Graphs | None,
        selector: Selector | None = None,
    ) -> None:
        self._given = model, policies, graphs, selector
        self._entered = False
        self._blocks: list[AbstractContextManager[PreTrainedModel]] = []

    def __enter__(self) -> PreTrainedModel:
        self._entered = True
        block = apply_policies(*self._given)
        model = block.__enter__()
        self._blocks.append(block)
        return model

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        return self._blocks.pop().__exit__(kind, error, trace)

    def __del__(self) -> None:
        if not self._entered:
            warnings.warn(
                "policy.apply(model) alone does nothing; write `with policy.apply(model):` around "
                "the calls of the model, or policy.install(model) to prune until remove()",
                RuntimeWarning,
                stacklevel=2,  # the line that drops it
            )


class Installed:
    """A policy on a model until `remove()`, also if nothing refers to this handle any more.

    Args:
        model: Model with its language-model head.
        policies: The policy, or several of which each sample runs one.
        graphs: CUDA graphs, None for eager execution.
        selector: Chooses among several policies; None: there is one.

    Raises:
        PolicyError: A policy does not fit the model, or another policy is already applied.
        ModelError: The model cannot be pruned.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        policies: Sequence[Policy],
        graphs: Graphs | None,
        selector: Selector | None = None,
    ) -> None:
        self._model = model
        self._lock = threading.Lock()
        self._block: AbstractContextManager[PreTrainedModel] | None = apply_policies(
            model, policies, graphs, selector
        )
        self._block.__enter__()
        # A dropped block would end; the model keeps this one, and takes it along when it is freed.
        vars(model)[self._name] = self

    @property
    def _name(self) -> str:
        return f"_opsearch_installed_{id(self):x}"

    def remove(self) -> None:
        """Restore the model; a second call does nothing.

        Raises:
            PolicyError: Other threads still run the model under the policy; they fail, too. The
                model is restored nevertheless.
        """
        with self._lock:
            block, self._block = self._block, None
        if block is not None:
            vars(self._model).pop(self._name, None)
            block.__exit__(None, None, None)
