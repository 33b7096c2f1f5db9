"""Digests of what a stored number depends on, equal in every process and on every machine.

No digest contains an address, the order of a set, or a path of this machine.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping
from enum import Enum
from functools import partial
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor

_PIECE = 2**26  # bytes of a tensor that are copied to the CPU at once

_NEVER_READ = frozenset(
    {
        "_commit_hash",
        "_name_or_path",
        "name_or_path",
        "transformers_version",
        # Of tokenizers: arguments and files they were made from, and warnings already given. What
        # these decide is in other attributes.
        "deprecation_warnings",
        "files_loaded",
        "init_inputs",
        "init_kwargs",
        "tokens_trie",
        "vocab_file",
    }
)
"""Attributes of objects that change no number: their origin, and notes of a library."""


def settings_digest(value: Any) -> str:
    """Return a SHA-256 (hex) of settings: nested values, arrays, and objects by their attributes.

    Tuples equal lists, and members of enumerations equal their values.
    """
    return hashlib.sha256(settings_text(value).encode()).hexdigest()


def settings_text(value: Any) -> str:
    """Return the JSON that `settings_digest` digests."""
    return _text(_plain(value, ()))


def tensor_digest(tensor: Tensor) -> str:
    """Return a SHA-256 (hex) of shape, dtype and all bytes of a tensor, on any device.

    The values of a tensor on the meta device are unknown, so that only its shape counts. A tensor
    subclass, e.g. of quantised weights, counts with its inner tensors and its settings.
    """
    digest = hashlib.sha256(f"{tuple(tensor.shape)} {tensor.dtype} ".encode())
    if hasattr(tensor, "__tensor_flatten__"):
        names, settings = tensor.__tensor_flatten__()
        inner = [[name, tensor_digest(getattr(tensor, name))] for name in names]
        digest.update(settings_text([type(tensor), settings, inner]).encode())
    elif not tensor.is_meta:
        # As bytes, because NumPy has no bfloat16.
        flat = tensor.detach().contiguous().view(-1).view(torch.uint8)
        for piece in flat.split(_PIECE):
            digest.update(piece.cpu().numpy())
    return digest.hexdigest()


def processor_digest(processor: Any) -> str:
    """Return a SHA-256 (hex) of a processor: all that shapes a model's inputs and decodes answers.

    These are all attributes of the processor, its chat template, its image and video processors
    and its tokenizer with vocabulary and decoder, as they are in memory.
    """
    return settings_digest(processor)


def _text(plain: Any) -> str:
    return json.dumps(plain, sort_keys=True)


def _plain(value: Any, within: tuple[int, ...]) -> Any:
    """Return a value as JSON has it; `within` holds the ids of the objects around it."""
    if isinstance(value, Enum):
        return _plain(value.value, within)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return _plain(value.item(), within)
    if isinstance(value, Tensor):
        return ["tensor", tensor_digest(value)]
    if isinstance(value, np.ndarray):
        return ["array", str(value.dtype), value.shape, _bytes_digest(value.tobytes())]
    if isinstance(value, bytes | bytearray):
        return ["bytes", _bytes_digest(value)]
    if isinstance(value, torch.dtype | torch.device | PurePath):
        return str(value)
    if isinstance(value, type) or inspect.isroutine(value):
        return _name_of(value)
    if id(value) in within:
        return "an object around this one"
    return _parts(value, (*within, id(value)))


def _parts(value: Any, within: tuple[int, ...]) -> Any:
    """Return a container, or an object by its class and its state."""
    if isinstance(value, Mapping) and not getattr(value, "__dict__", None):
        pairs = [[_plain(key, within), _plain(each, within)] for key, each in value.items()]
        return {"mapping": sorted(pairs, key=_text)}
    if isinstance(value, list | tuple):
        return [_plain(each, within) for each in value]
    if isinstance(value, set | frozenset):
        return {"set": sorted((_plain(each, within) for each in value), key=_text)}
    return {_name_of(type(value)): _plain(_state(value), within)}


def _state(value: Any) -> Any:
    """Return what decides the behaviour of an object."""
    if hasattr(value, "to_str") and hasattr(value, "get_vocab"):  # a tokenizer written in Rust
        state = json.loads(value.to_str())
        # Left over from the last call; every call sets them anew.
        return {name: state[name] for name in state.keys() - {"truncation", "padding"}}
    if hasattr(value, "serialized_model_proto"):  # a tokenizer of SentencePiece
        return value.serialized_model_proto()
    if hasattr(value, "pattern") and hasattr(value, "flags"):  # a regular expression
        return [value.pattern, value.flags]
    if isinstance(value, partial):
        return [value.func, value.args, value.keywords]
    if getattr(value, "__dict__", None):
        kept = {name: each for name, each in vars(value).items() if name not in _NEVER_READ}
        return [dict(value), kept] if isinstance(value, Mapping) else kept
    try:
        return value.__getstate__()  # of slots, or of a part written in another language
    except TypeError:  # it cannot be taken apart
        return None


def _name_of(part: Any) -> str:
    return f"{getattr(part, '__module__', '')}.{part.__qualname__}"


def _bytes_digest(content: bytes | bytearray) -> str:
    return hashlib.sha256(content).hexdigest()
