"""The model to load and its settings; importing this module loads no torch or transformers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from opsearch.models.placement import ITEMSIZE, check_device_name


@dataclass(frozen=True)
class ModelSpec:
    """A model by name, and how its weights are loaded.

    Attributes:
        name: `demo` (the embedded model), a local folder, or a hub id.
        dtype: float32, bfloat16 or float16.
        device: A torch device, or `auto`: spread over all GPUs by accelerate.
        attention: sdpa, eager or flash_attention_2.
    """

    name: str = "demo"
    dtype: str = "float32"
    device: str = "cpu"
    attention: str = "sdpa"

    @property
    def itemsize(self) -> int:
        """Bytes of one number."""
        return ITEMSIZE[self.dtype]

    def check_named(self) -> None:
        """Raise ModelError for names that no machine knows; loads no torch."""
        from opsearch.models.hub import check_source

        check_device_name(self.device)
        check_source("model", self.name)

    def check(self, feature: str | None = None) -> None:
        """Raise ModelError unless this machine can load the model.

        Args:
            feature: Feature that requires the whole model on one device.
        """
        from opsearch.models.loading import check_attention, check_device

        check_device(self.device, self.dtype, feature)
        check_attention(self.attention, self.dtype, self.device)

    def load_config(self) -> Any:
        """Return the model's config; raises ModelError."""
        from opsearch.models.loading import load_config

        return load_config(self.name)

    def load_processor(self) -> Any:
        """Return tokenizer, image processor and chat template; raises ModelError."""
        from opsearch.models.loading import load_processor

        return load_processor(self.name)

    def load(self) -> Any:
        """Return the model with its weights, in evaluation mode; raises ModelError."""
        from opsearch.models.loading import load_weights

        return load_weights(self.name, self.dtype, self.device, self.attention)


def load_model(
    name: str = "demo", *, dtype: str = "float32", device: str = "cpu", attention: str = "sdpa"
) -> tuple[Any, Any]:
    """Load a model and its processor.

    Args:
        name: `demo` (the embedded model), a local folder, or a hub id.
        dtype: float32, bfloat16 or float16.
        device: A torch device, or `auto`: spread over all GPUs by accelerate.
        attention: sdpa, eager or flash_attention_2.

    Returns:
        The model in evaluation mode, and its processor.

    Raises:
        ModelError: The model or the processor cannot be loaded on this machine.
    """
    spec = ModelSpec(name, dtype, device, attention)
    spec.check()
    return spec.load(), spec.load_processor()
