"""Availability check of the model hub, one short request.

Transformers would ask again for minutes, and for each of a dozen files; importing this needs no
torch.
"""

from __future__ import annotations

from concurrent.futures import Future
from math import inf
from pathlib import Path
from threading import Thread
from time import monotonic
from typing import Any

from opsearch.errors import PATH, ModelError, echo

_SECONDS, _VALID = 3.0, 30.0


def check_source(kind: str, name: str) -> None:
    """Raise ModelError if a checkpoint is neither a folder, nor cached, nor on a hub that answers.

    Args:
        kind: What is loaded, as messages name it.
        name: `demo`, a local folder, or a hub id.
    """
    if name == "demo":
        return
    path = Path(name)
    if path.is_file():
        raise ModelError(
            f"the {kind} {echo(name, PATH)} is a file; give the folder that holds config.json"
        )
    if not path.exists() and name.startswith((".", "/", "~", "\\")):
        raise ModelError(
            f"the folder {echo(name, PATH)} of the {kind} does not exist; check the path"
        )
    if cached_config(name) is None and (reason := hub_failure(name)):
        raise ModelError(
            f"the {kind} {echo(name, PATH)} is no local folder and not in the cache, and the hub "
            f"does not answer ({reason}); check the network and HF_ENDPOINT, or give a local folder"
        )


def cached_config(name: str) -> Path | None:
    """Return the path of a hub id's config.json in the cache, None if it is not there."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, "config.json")
    except HFValidationError:  # a path, not a hub id
        return None
    return Path(found) if isinstance(found, str) else None


_asked: dict[str, tuple[float, str | None]] = {}  # time and result of the last request by name


def hub_failure(name: str) -> str | None:
    """Return why the hub cannot be asked for a checkpoint; None: it can, or need not.

    The hub is asked once for all files of a checkpoint, and again after half a minute.
    """
    at, failure = _asked.get(name, (-inf, None))
    if monotonic() - at > _VALID:
        failure = _hub_failure(name)
        _asked[name] = monotonic(), failure
    return failure


def _hub_failure(name: str) -> str | None:
    from huggingface_hub import hf_hub_url
    from huggingface_hub.constants import HF_HUB_OFFLINE
    from huggingface_hub.errors import HFValidationError

    if HF_HUB_OFFLINE or name == "demo" or Path(name).exists():
        return None
    try:
        url = hf_hub_url(name, "config.json")
    except HFValidationError:
        return None
    answer: Future[Any] = Future()
    # In a thread, because no time limit holds for the resolution of a host's name.
    Thread(target=_ask, args=(url, answer), daemon=True).start()
    host = url.split("/")[2]
    try:
        status = answer.result(_SECONDS).status_code
    except TimeoutError:
        return f"{host} said nothing for {_SECONDS:g} s"
    except Exception as error:  # of the HTTP library, which differs between releases of the hub's
        return f"{host}: {' '.join(str(error).split()) or type(error).__name__}"
    return f"{host} answers with status {status}" if status >= 500 else None


def _ask(url: str, answer: Future[Any]) -> None:
    from huggingface_hub import get_session

    try:
        answer.set_result(get_session().head(url, timeout=_SECONDS))
    except BaseException as error:
        answer.set_exception(error)
