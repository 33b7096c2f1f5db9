"""Fingerprint of a model: all that decides what it computes, by which stored numbers are kept.

Weights are digested in full. Threads share the work, because SHA-256 runs outside of Python's lock:
docs/benchmarks.md states the speed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from torch import Tensor, nn

from opsearch.models.clip import clip_parts
from opsearch.models.devices import stored_tensor
from opsearch.models.digests import settings_digest, tensor_digest
from opsearch.models.loading import unpack

# Attributes of modules that do not decide what they compute.
_NOTES = frozenset({"name_or_path", "hf_device_map", "gradient_checkpointing", "warnings_issued"})
_OF_ADAPTERS = ("_active_adapter", "_disable_adapters")  # of peft
# Some rotary embeddings compute these anew for the length of each prompt.
_PER_PROMPT = ("inv_freq", "attention_scaling", "max_seq_len_cached")
_ROPES_PER_PROMPT = ("dynamic", "longrope")


def fingerprint(model: Any) -> str:
    """Return a SHA-256 (hex) of all that a model's numbers depend on, equal for equal models.

    These are its config, its parameters and buffers in full, the class and the plain attributes of
    each module (such as scales and active adapters), and the versions of the packages that its code
    comes from. The device does not count, and neither does the folder that it was loaded from.
    """
    unpack(model)
    return settings_digest(
        {
            "config": model.config,
            "versions": _versions(model),
            "modules": {name: _facts(module) for name, module in model.named_modules()},
            "tensors": tensor_digests(model),
            "further state": _further_state(model),
        }
    )


def clip_digest(model: Any, folder: str) -> str:
    """Return a SHA-256 (hex) of all that a ranking by the CLIP model in a folder depends on."""
    clip, tokenizers = clip_parts(model, folder)
    return settings_digest([fingerprint(clip), tokenizers])


def tensor_digests(model: nn.Module) -> dict[str, str]:
    """Return the digest of each parameter and buffer by name; of tied ones only the first."""
    names = [name for name, _ in model.named_parameters()]
    names += [name for name, _ in model.named_buffers() if not _is_per_prompt(model, name)]
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        digests = threads.map(lambda name: tensor_digest(stored_tensor(model, name)), names)
        return dict(zip(names, digests, strict=True))


def _further_state(model: nn.Module) -> dict[str, Any]:
    """Return the state that is neither parameter nor buffer, e.g. scales of bitsandbytes."""
    known = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    known |= {name for name, _ in model.named_buffers(remove_duplicate=False)}
    state = model.state_dict(keep_vars=True)  # not detached, which some quantised weights cannot be
    return {name: value for name, value in state.items() if name not in known}


def _facts(module: nn.Module) -> list[Any]:
    """Return the name of a module's class and its plain attributes."""
    left_out = _NOTES | vars(nn.Module()).keys() - {"training"}
    left_out |= frozenset(_PER_PROMPT) if _ropes_per_prompt(module) else frozenset()
    attributes = {
        name: value
        for name, value in vars(module).items()
        if name not in left_out
        and (name in _OF_ADAPTERS or not name.startswith("_"))
        and _is_plain(value)
    }
    return [_package(module), type(module).__qualname__, attributes]


def _is_plain(value: Any) -> bool:
    """Return whether a value is a number, a text, or a container of these; None is neither."""
    if isinstance(value, list | tuple | set | frozenset):
        return all(each is None or _is_plain(each) for each in value)
    if isinstance(value, dict):
        return all(each is None or _is_plain(each) for each in value.values())
    return isinstance(value, bool | int | float | str)


def _is_per_prompt(model: nn.Module, name: str) -> bool:
    path, _, own = name.rpartition(".")
    of_prompt = own.endswith(_PER_PROMPT) and "original" not in own
    return of_prompt and _ropes_per_prompt(model.get_submodule(path))


def _ropes_per_prompt(module: nn.Module) -> bool:
    kind = getattr(module, "rope_type", None)
    kinds = kind.values() if isinstance(kind, dict) else [kind]
    return any(str(each).startswith(_ROPES_PER_PROMPT) for each in kinds)


def _versions(model: nn.Module) -> dict[str, str]:
    """Return the versions of the packages whose classes make up a model, e.g. of transformers.

    A build for a device, such as torch's +cpu, does not count, because devices do not either.
    """
    packages = {_package(part) for part in _parts(model)}
    found = {name: getattr(sys.modules.get(name), "__version__", None) for name in packages}
    return {name: str(each).partition("+")[0] for name, each in found.items() if each is not None}


def _package(part: nn.Module | Tensor) -> str:
    return type(part).__module__.partition(".")[0]


def _parts(model: nn.Module) -> Iterator[nn.Module | Tensor]:
    yield from model.modules()
    yield from model.parameters()
