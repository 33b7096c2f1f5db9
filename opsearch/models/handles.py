"""Changes of a model that can be undone, and the receiver of captured ranker inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

Store = Callable[[str, Tensor], None]


class Handle(Protocol):
    """Change of a model that can be undone, e.g. a hook."""

    def remove(self) -> None:
        """Undo the change."""


@dataclass(frozen=True)
class Replaced:
    """Attribute replaced on a module instance, e.g. a method.

    Attributes:
        module: The module.
        name: Name of the attribute.
        previous: Instance attribute of that name before, None if there was none.
    """

    module: nn.Module
    name: str
    previous: Any

    def remove(self) -> None:
        """Restore the attribute."""
        if self.previous is None:
            delattr(self.module, self.name)
        else:
            setattr(self.module, self.name, self.previous)
