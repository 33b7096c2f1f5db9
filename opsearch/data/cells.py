"""Values of one key of a record: texts, lists of texts, and images."""

from __future__ import annotations

import math
from decimal import Decimal
from pathlib import Path
from typing import Any

from opsearch.data.pictures import URL, EncodedImage, url_refusal
from opsearch.errors import PATH, DataError, echo, shortened

_EXACT = 2**53  # floats up to here distinguish whole numbers


def text(value: Any) -> str:
    """Return a text, or a number as text: 3 and 3.0 are "3", 3.5 is "3.5".

    Raises:
        ValueError: It is neither; a boolean is not, because data write yes, true or 1 for it.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        word = str(value).lower()
        raise ValueError(f'{word} is a truth value; write the word, "{word}" or "yes" or "no"')
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float | Decimal):
        return _number(value)
    raise ValueError(f"{_kind(value)} is neither a text nor a number")


def _number(value: float | Decimal) -> str:
    if not math.isfinite(value):
        raise ValueError(f"{value} is not a number")
    if value == int(value) and -_EXACT <= value <= _EXACT:
        return str(int(value))
    return repr(value) if isinstance(value, float) else f"{value.normalize():f}"


def texts(value: Any) -> list[str]:
    """Return the texts of one value or of a list.

    A dict stands for its "answer", as in VQAv2; nulls in a list are left out.

    Raises:
        ValueError: A value is neither a text nor a number.
    """
    if not isinstance(value, list):
        return [_answer(value)]
    return [_answer(each) for each in value if each is not None]


def _answer(value: Any) -> str:
    if not isinstance(value, dict):
        return text(value)
    if "answer" not in value:
        raise ValueError(
            f'a dict with the keys {shortened(", ".join(map(str, value)))} has no "answer"'
        )
    return text(value["answer"])


def images(value: Any, folder: Path, where: str) -> tuple[Path | EncodedImage, ...]:
    """Return the images of one value or of a list.

    Args:
        value: A path, a dict of bytes and path as Hugging Face's datasets write it, the bytes of an
            image file, or a list of these.
        folder: Folder of the data file.
        where: File and line, for names and errors.

    Raises:
        ValueError: A value is nothing of this.
        DataError: A path is a URL or lies outside of the folder.
    """
    if not isinstance(value, list):
        return (_image(value, folder, where, where),)
    numbered = enumerate(value, 1)
    return tuple(_image(each, folder, where, f"{where}, image {n}") for n, each in numbered)


def _image(value: Any, folder: Path, where: str, name: str) -> Path | EncodedImage:
    path = None
    if isinstance(value, dict):
        if not value or not value.keys() <= {"bytes", "path"}:
            raise ValueError(
                f"a dict with the keys {shortened(', '.join(map(str, value)))} is no image"
            )
        path, value = value.get("path"), value.get("bytes")
        if value is None and path is None:
            raise ValueError("bytes and path of an image are both null")
        value = path if value is None else value
    if isinstance(value, bytes):
        return EncodedImage(value, f"{name} ({path})" if path else name)
    if isinstance(value, str):
        return _inside(folder, value, where)
    raise ValueError(f"{_kind(value)} is no path of an image")


def _kind(value: Any) -> str:
    kinds = {dict: "a dict", list: "a list", bytes: "a value of bytes", type(None): "null"}
    return kinds.get(type(value), f"a value of type {type(value).__name__}")


def _inside(folder: Path, name: str, where: str) -> Path:
    """Resolve the path of an image; raise DataError if it is outside of the folder."""
    if URL.match(name):
        raise DataError(f"{where}: {url_refusal(name)}")
    try:
        resolved = (folder / name).resolve()
    except (OSError, ValueError, RuntimeError) as error:  # a null byte, a loop of symbolic links
        raise DataError(
            f"{where}: {echo(name, PATH)} is not a path ({error}); name a file in {folder}"
        ) from error
    if not resolved.is_relative_to(folder.resolve()):
        raise DataError(
            f"{where}: the image {echo(name, PATH)} lies outside of the folder of the data file; "
            "move it there and give its path relative to that folder"
        )
    return resolved
