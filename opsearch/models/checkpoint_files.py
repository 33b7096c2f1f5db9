"""Files of a checkpoint folder that cannot be read, found after transformers failed on them.

Transformers seldom names the file; torch advises to load a refused pickle unsafely.
"""

from __future__ import annotations

import json
import pickle
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

_PROCESSOR = (
    *("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json"),
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json"),
    *("chat_template.json", "chat_template.jinja"),
)
_TOKENIZER = "tokenizer.json"
# A processor needs one file of each line.
_ANY_OF = {
    "image processor": ("processor_config.json", "preprocessor_config.json"),
    "tokenizer": (_TOKENIZER, "tokenizer.model", "vocab.json"),
}
SETTINGS = ("config.json", "generation_config.json")
"""Files of the model beside its weights."""
# Transformers reads the first that exists.
_WEIGHTS = (
    *("model.safetensors", "model.safetensors.index.json"),
    *("pytorch_model.bin", "pytorch_model.bin.index.json"),
)
_POINTER = b"version https://git-lfs"
_AGAIN = "copy or download it again"


def damaged_model_file(folder: Path, *, whole: bool = True) -> str | None:
    """Return which file of the model cannot be read, why, and the next step; None if all can.

    Args:
        folder: The folder of the checkpoint.
        whole: All files must be there, as in a folder of the user's; in the hub's cache, some may
            not have been downloaded.
    """
    return damaged_settings(folder, SETTINGS) or _damaged_weights(folder, whole)


def damaged_processor_file(folder: Path, *, whole: bool = True) -> str | None:
    """Return which file of the processor cannot be read, as `damaged_model_file` does."""
    if found := damaged_settings(folder, ("config.json", *_PROCESSOR)):
        return found
    for kind, names in _ANY_OF.items():
        if whole and not any((folder / name).exists() for name in names):
            return f"{folder} holds no file of the {kind}; copy {' or '.join(names[:2])} there"
    path = folder / _TOKENIZER
    return _damaged_tokenizer(path) if path.exists() else None


def damaged_settings(folder: Path, names: Iterable[str]) -> str | None:
    """Return which of these files of texts and settings cannot be read; None if all can."""
    paths = (folder / name for name in names)
    found = (_damaged_text(path) for path in paths if path.exists())
    return next(filter(None, found), None)


def _damaged_text(path: Path) -> str | None:
    if _is_pointer(path):
        return _pointer(path)
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else {}
    except (OSError, ValueError, RecursionError) as error:
        return f"{path} cannot be read ({brief_message(error)}); {_AGAIN}"
    if not isinstance(content, dict):
        return f"{path} holds a {type(content).__name__} and not settings by name; {_AGAIN}"
    return None


def _damaged_tokenizer(path: Path) -> str | None:
    if found := _damaged_text(path):
        return found
    from tokenizers import Tokenizer

    try:
        Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises no narrower class
        return f"{path} is no tokenizer ({brief_message(error)}); {_AGAIN}"
    return None


def _damaged_weights(folder: Path, whole: bool) -> str | None:
    first = next((name for name in _WEIGHTS if (folder / name).exists()), None)
    if first is None:
        missing = f"{folder} holds no weights; copy {_WEIGHTS[0]}, or its parts and their index"
        return f"{missing}, there" if whole else None
    if first.endswith(".index.json"):
        return _damaged_parts(folder / first, whole)
    return _damaged_tensors(folder / first)


def _damaged_parts(index: Path, whole: bool) -> str | None:
    if found := _damaged_text(index):
        return found
    files = json.loads(index.read_text(encoding="utf-8")).get("weight_map")
    if not isinstance(files, dict) or not all(isinstance(name, str) for name in files.values()):
        return f"{index} has no weight_map that names the file of each tensor; {_AGAIN}"
    paths = [index.parent / name for name in dict.fromkeys(files.values())]
    lacking = [path for path in paths if not path.exists()]
    if lacking and whole:
        return (
            f"{len(lacking)} of the {len(paths)} files that {index} names are missing, first "
            f"{lacking[0].name}; copy or download them into the same folder"
        )
    return next(filter(None, (_damaged_tensors(path) for path in paths if path.exists())), None)


def _damaged_tensors(path: Path) -> str | None:
    if _is_pointer(path):
        return _pointer(path)
    return _damaged_safetensors(path) if path.suffix == ".safetensors" else _damaged_pickle(path)


def _damaged_safetensors(path: Path) -> str | None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            file.keys()
    except (OSError, SafetensorError) as error:
        return f"{path} is damaged or truncated ({brief_message(error)}); {_AGAIN}"
    return None


def _damaged_pickle(path: Path) -> str | None:
    import torch

    instead = f"{_AGAIN}, or use a checkpoint with safetensors"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an unusual pickle
            content: Any = torch.load(path, map_location="meta", weights_only=True)
    except pickle.UnpicklingError:
        return (
            f"{path} is damaged, or holds more than tensors, which could run any code and is never "
            f"loaded; {instead}"
        )
    except Exception:  # damaged bytes raise anything, in words of torch's inner parts
        return f"{path} is damaged or truncated; {instead}"
    if not isinstance(content, Mapping):
        return f"{path} holds a {type(content).__name__} and not tensors by name; {instead}"
    return None


def _is_pointer(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(_POINTER)) == _POINTER
    except OSError:
        return False


def _pointer(path: Path) -> str:
    return f"{path} is a pointer of Git LFS and not the file itself; run `git lfs pull` there"


def brief_message(error: Exception, limit: int = 240) -> str:
    """Return an error's message on one line, the end of a long one left out."""
    text = " ".join(str(error).split()).rstrip(".")
    return text if len(text) <= limit else f"{text[:limit]} ..."
