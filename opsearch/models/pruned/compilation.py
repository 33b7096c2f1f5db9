"""Functions that torch.compile leaves to eager execution.

The rows of a prefill depend on data and its planning runs on the host, so each layer would be
compiled anew. Dynamo compiles a function at most `recompile_limit` times (8), and then runs it
eagerly, decoding included.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

Function = TypeVar("Function", bound=Callable[..., Any])


def eager(function: Function) -> Function:
    """Let torch.compile run a function eagerly, and all functions that it calls."""
    disabled: Function = torch.compiler.disable(function)
    return disabled


def eager_frame(function: Function) -> Function:
    """Let torch.compile run a function eagerly, but compile the functions that it calls."""
    disabled: Function = torch.compiler.disable(function, recursive=False)
    return disabled
