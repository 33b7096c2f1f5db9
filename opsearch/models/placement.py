"""Dtypes and devices of a model, as options name them; importing this needs no torch."""

from opsearch.errors import ModelError, echo

AUTO = "auto"  # all devices of the machine
ITEMSIZE = {"float32": 4, "bfloat16": 2, "float16": 2}  # bytes of one number, by dtype


def check_device_name(device: str) -> None:
    """Raise ModelError for a name that torch gives otherwise."""
    if device.casefold().startswith("gpu"):
        raise ModelError(
            f"device {echo(device)} is unknown: torch calls it cuda; write --device "
            f"cuda{device[3:]}"
        )
