"""Calls of a model inside one `with` block: each ends inside it, or raises PolicyError."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import nn

from opsearch.errors import PolicyError
from opsearch.models.handles import replaced

# Methods by which copy, pickle and DataParallel copy a module; each is looked up on the instance.
_COPIES = ("__deepcopy__", "__reduce_ex__", "_replicate_for_data_parallel")


# The block whose call this thread runs.
_current: ContextVar[Block | None] = ContextVar("opsearch_block", default=None)


class Block:
    """Calls that run inside one `with` block, in any thread."""

    def __init__(self) -> None:
        self._ended = False
        self._running: set[object] = set()

    @contextmanager
    def call(self) -> Iterator[None]:
        """Count a call as running; raise PolicyError if the block has ended before its end."""
        running = object()
        if not self.runs_here():
            self._running.add(running)
        token = _current.set(self)
        try:
            # Counted before, so that a block that ends from here on sees this call.
            self.check()
            yield
        except Exception as error:
            if self._ended:
                raise _outlived() from error
            raise
        finally:
            _current.reset(token)
            self._running.discard(running)
        self.check()

    def runs_here(self) -> bool:
        """Return whether this thread runs a call."""
        return _current.get() is self

    def check(self) -> None:
        """Raise PolicyError if the block has ended."""
        if self._ended:
            raise _outlived()

    def end(self) -> None:
        """Let all running calls fail."""
        self._ended = True

    def check_finished(self) -> None:
        """Raise PolicyError if other threads still run calls."""
        if self._running:
            raise PolicyError(
                f"{len(self._running)} other thread(s) still run the model under the policy, and "
                "now fail; join them, or read their streams to the end, inside the `with` block or "
                "before remove()"
            )


def _outlived() -> PolicyError:
    return PolicyError(
        "the `with` block ended, or the policy was removed, before this call of the model ended, "
        "so the rest would run without the policy; join the thread before that"
    )


@contextmanager
def not_copied(module: nn.Module) -> Iterator[None]:
    """Let copies fail inside the block: the patched forwards of a copy would run the original."""

    def refuse(*args: Any) -> Any:
        raise PolicyError(
            "a model under a policy cannot be copied, pickled or replicated; copy it outside "
            "of the `with` block, or before the policy is installed"
        )

    with replaced(module, **dict.fromkeys(_COPIES, refuse)):
        yield
