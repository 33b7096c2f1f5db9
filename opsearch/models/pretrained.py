"""Everything that transformers loads by name, with one rule for all of it.

Code of a checkpoint is never run, weights are complete, and each failure is one sentence. Wrappers
of lmms-eval load their weights themselves.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from errno import ENOSPC
from pathlib import Path
from typing import Any

from opsearch.data.demo import MODEL_DIR
from opsearch.errors import PATH, ModelError, echo, ran_out_of_memory
from opsearch.models.checkpoint_files import (
    SETTINGS,
    brief_message,
    damaged_model_file,
    damaged_processor_file,
    damaged_settings,
)
from opsearch.models.hub import cached_config, check_source, hub_failure

_SHOWN = 3  # tensors that a message names
_REMOTE = "trust_remote_code"  # in the error of transformers for a checkpoint with code


def resolve_name(name: str) -> str:
    """Return the folder of the embedded model for `demo`, any other name unchanged."""
    return str(MODEL_DIR) if name == "demo" else name


def load_part(kind: str, factory: Any, name: str, **settings: Any) -> Any:
    """Return `factory.from_pretrained` of a checkpoint, without ever running its code.

    Args:
        kind: The part as messages name it: model (its config or weights), processor, tokenizer.
        factory: Class of transformers.
        name: `demo`, a local folder, or a hub id.
        settings: Further arguments.

    Raises:
        ModelError: The part cannot be loaded; names the file where one is damaged.
    """
    check_source(kind, name)
    if hub_failure(name):
        settings["local_files_only"] = True  # of the cache, where each file would be asked for
    try:
        return factory.from_pretrained(resolve_name(name), trust_remote_code=False, **settings)
    except Exception as error:  # damaged files raise anything
        if ran_out_of_memory(error) or getattr(error, "errno", None) == ENOSPC:
            raise
        raise ModelError(loading_failure(kind, name, error)) from error


def load_tensors(factory: Any, name: str, **settings: Any) -> Any:
    """Return a model whose tensors all come from the checkpoint.

    Args:
        factory: Class of transformers.
        name: `demo`, a local folder, or a hub id.
        settings: Further arguments of `from_pretrained`.

    Raises:
        ModelError: A tensor is missing or has another shape, or a file cannot be read.
    """
    folder = _folder(name)
    # Transformers goes on without a damaged generation_config.json, which says where answers end.
    if folder is not None and (damage := damaged_settings(folder, SETTINGS)):
        raise ModelError(f"the model {echo(name, PATH)} cannot be loaded: {damage}")
    with _without_reports():
        model, found = load_part(
            "model",
            factory,
            name,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **settings,
        )
    _check_complete(name, found["missing_keys"], found["mismatched_keys"])
    if unused := sorted(found["unexpected_keys"]):
        logging.getLogger("opsearch").warning(
            f"note: the model {echo(name, PATH)} has no place for {_listed(unused)} of its "
            "checkpoint"
        )
    return model


def _check_complete(
    name: str,
    missing: Iterable[str],
    mismatched: Iterable[tuple[str, Sequence[int], Sequence[int]]],
) -> None:
    """Raise ModelError where transformers would have drawn a tensor at random.

    It counts neither tied weights nor buffers that the model computes itself.
    """
    step = "check that config.json belongs to the weights, or copy or download the checkpoint again"
    if lacking := sorted(missing):
        raise ModelError(
            f"the checkpoint {echo(name, PATH)} lacks {_listed(lacking)}, which would be random in "
            f"the model; {step}"
        )
    for tensor, there, wanted in sorted(mismatched):
        raise ModelError(
            f"the checkpoint {echo(name, PATH)} holds {tensor} with shape {list(there)}, but its "
            f"config.json asks for {list(wanted)}; {step}"
        )


def _listed(tensors: Sequence[str]) -> str:
    """Return the number of tensors with the first names: `5 tensors (a, b, c, ...)`."""
    names = ", ".join(tensors[:_SHOWN]) + (", ..." if len(tensors) > _SHOWN else "")
    return f"{len(tensors)} tensor{'s' if len(tensors) > 1 else ''} ({names})"


@contextmanager
def _without_reports() -> Iterator[None]:
    """Leave out transformers' table of tensors and torch's remarks on pickles.

    Both are replaced by one sentence of our own.
    """
    logger = logging.getLogger("transformers.modeling_utils")

    def unlike_a_report(record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()

    logger.addFilter(unlike_a_report)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"torch\._weights_only_unpickler")
            yield
    finally:
        logger.removeFilter(unlike_a_report)


def loading_failure(kind: str, name: str, error: Exception) -> str:
    """Return the message of a part that cannot be loaded: why, and the next step.

    Args:
        kind: The part, as for `load_part`.
        name: `demo`, a local folder, or a hub id.
        error: What transformers raised.
    """
    failed = f"the {kind} {echo(name, PATH)} cannot be loaded"
    if _REMOTE in str(error):
        return (
            f"{failed}, because it needs Python code of its own (auto_map in its files), which "
            "opsearch never runs; use a checkpoint that transformers itself supports"
        )
    if isinstance(error, ImportError):  # a package of the quantization method
        return f"{failed} ({_reason(error)}); install what it needs"
    folder, own = _folder(name), Path(resolve_name(name)).is_dir()
    if own and folder and not (folder / "config.json").exists():
        return f"{failed}: {folder} holds no config.json; give the folder of a whole checkpoint"
    found = damaged_model_file if kind == "model" else damaged_processor_file
    if folder and (damage := found(folder, whole=own)):
        return f"{failed}: {damage}"
    if not own:
        return f"{failed} {_not_downloaded(name, cached=folder is not None, error=error)}"
    step = f"check config.json in {folder}, or copy it again"
    if kind != "model":
        step = f"check the files of tokenizer and processor in {folder}, or copy them again"
    return f"{failed} ({_reason(error)}); {step}"


def _not_downloaded(name: str, *, cached: bool, error: Exception) -> str:
    """Return why a checkpoint is not whole in the cache of the hub, and the next step."""
    from huggingface_hub.constants import HF_HUB_OFFLINE

    part = "only a part of it is in the cache, and " if cached else ""
    if HF_HUB_OFFLINE:
        step = "unset HF_HUB_OFFLINE to download it, or give 'demo' or a local folder"
        return f"({part}HF_HUB_OFFLINE is set: {_reason(error)}); {step}"
    if failure := hub_failure(name):
        return f"({part}the hub does not answer: {failure}); check the network and HF_ENDPOINT"
    return f"({_reason(error)}); give 'demo', a local folder, or a hub id that you can reach"


def _reason(error: Exception) -> str:
    """Return the first line of an error, of errors from the inside of transformers all of it."""
    if isinstance(error, OSError | ValueError | ImportError):
        return brief_message(type(error)(str(error).strip().partition("\n")[0]))
    return brief_message(error) if " " in str(error) else f"{type(error).__name__}: {error}"


def _folder(name: str) -> Path | None:
    """Return the local folder of a checkpoint, that of the hub's cache included; None: none."""
    if (own := Path(resolve_name(name))).is_dir():
        return own
    cached = cached_config(name)
    return None if cached is None else cached.parent
