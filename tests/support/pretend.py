"""A second device without a GPU: its tensors hold their values here and compute as CPUs do.

As on a GPU, an operation on tensors of two devices fails, and the host waits for each value that it
reads; `waits` records these.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

_setup_privateuseone_for_python_backend("pretend")
PRETEND = torch.device("pretend", 0)
_HERE = torch.device("cpu")
_waits: list[str] = []

aten = torch.ops.aten
_COPIES = (aten.copy_.default, aten._to_copy.default, aten._copy_from.default)
_READS = (
    aten._local_scalar_dense.default,
    aten.equal.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten._unique2.default,
    aten.unique_dim.default,
    aten.repeat_interleave.Tensor,
)
_INDEXED = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default)


class Away(Tensor):
    """A tensor of the other device; `here` holds its values."""

    here: Tensor

    @staticmethod
    def __new__(cls, here: Tensor) -> Away:
        layout = {"strides": here.stride(), "storage_offset": here.storage_offset()}
        return Tensor._make_wrapper_subclass(
            cls, here.shape, dtype=here.dtype, device=PRETEND, **layout
        )

    def __init__(self, here: Tensor) -> None:
        self.here = here

    def __repr__(self) -> str:
        return f"Away({self.here!r})"

    def tolist(self) -> Any:
        _waits.append("tolist")
        return self.here.tolist()

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {})


def _computed(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Compute `func` on the values and wrap the results for its device."""
    if func is aten._fused_sdp_choice.default:
        return 0  # no kernel fuses it
    if func is aten._has_compatible_shallow_copy_type.default:
        return False  # a moved parameter is a new one
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    _check(func, args, kwargs, tensors)
    away = {id(t.here): t for t in tensors if isinstance(t, Away)}
    goes_home = func is aten._to_copy.default and kwargs.get("device") == _HERE
    args, kwargs = tree_map_only(Away, lambda t: t.here, (args, kwargs))
    kwargs = tree_map_only(torch.device, lambda _: _HERE, kwargs)
    found = func(*args, **kwargs)
    if goes_home or (func in _COPIES and not isinstance(tensors[0], Away) and len(tensors) == 2):
        return found
    assert all(held.shape == held.here.shape for held in away.values()), f"{func} resized a tensor"
    return tree_map_only(Tensor, lambda t: away[id(t)] if id(t) in away else Away(t), found)


def _check(func: Any, args: Any, kwargs: dict[str, Any], tensors: list[Tensor]) -> None:
    home = [t for t in tensors if not isinstance(t, Away) and t.dim()]
    if func in _COPIES:
        to = kwargs.get("device", tensors[0].device)
        if torch.device(to).type != tensors[-1].device.type and not _asynchronous(
            func, args, kwargs
        ):
            _waits.append(f"copied to {to}")
    elif func in _INDEXED and all(any(t is i for i in args[1]) for t in home):
        _waits.extend("copied to pretend:0" for _ in home)
    elif home and len(home) < len(tensors):
        raise AssertionError(f"tensors of two devices meet in {func}")
    if func in _READS or (
        func in _INDEXED and any(t is not None and t.dtype == torch.bool for t in args[1])
    ):
        _waits.append(str(func))


def _kernel(name: str) -> Any:
    packet, _, overload = name.partition(".")
    func = getattr(getattr(aten, packet), overload or "default")
    return lambda *args, **kwargs: _computed(func, args, kwargs)


def _asynchronous(func: Any, args: Any, kwargs: dict[str, Any]) -> bool:
    """Return whether the copy is asynchronous."""
    given = args[2] if func is aten.copy_.default and len(args) > 2 else False
    return bool(kwargs.get("non_blocking", given)) and kwargs.get("device") != _HERE


def _copied(given: Tensor, into: Tensor, non_blocking: bool = False) -> Tensor:
    return _computed(aten.copy_.default, (into, given, non_blocking), {})


# Operations that are called without a tensor of the device, or below the dispatch of its tensors.
_library = torch.library.Library("aten", "IMPL")
_library.impl("_copy_from", _copied, "PrivateUse1")
for _name in (
    "_local_scalar_dense",
    "arange",
    "arange.start",
    "arange.start_step",
    "eye",
    "eye.m",
    "empty.memory_format",
    "empty_strided",
):
    _library.impl(_name, _kernel(_name), "PrivateUse1")


@contextmanager
def waits() -> Iterator[list[str]]:
    """Record the operations for which the host waits."""
    _waits.clear()
    yield _waits
