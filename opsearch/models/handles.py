"""Changes of a model that can be undone, and the receiver of captured ranker inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from torch import Tensor, nn

Store = Callable[[str, Tensor], None]
_ABSENT = object()


class Handle(Protocol):
    """Change of a model that can be undone, e.g. a hook."""

    def remove(self) -> None:
        """Undo the change."""


class Replaced:
    """Attributes of a module instance that are replaced, e.g. methods."""

    def __init__(self, module: nn.Module, **attributes: Any) -> None:
        self._module = module
        self._before = {name: vars(module).get(name, _ABSENT) for name in attributes}
        vars(module).update(attributes)

    def remove(self) -> None:
        """Restore the attributes."""
        for name, value in self._before.items():
            if value is _ABSENT:
                vars(self._module).pop(name, None)
            else:
                vars(self._module)[name] = value


@contextmanager
def replaced(module: nn.Module, **attributes: Any) -> Iterator[None]:
    """Replace attributes of a module instance inside the block."""
    handle = Replaced(module, **attributes)
    try:
        yield
    finally:
        handle.remove()
