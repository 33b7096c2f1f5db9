"""Image settings of a model: found for a share of the visual tokens, and encoded with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

from opsearch.models.digests import settings_digest
from opsearch.models.encoding import Sample, encode
from opsearch.models.families import family_for
from opsearch.policy.images import ImageSetting
from opsearch.policy.policy import Policy

_TRIED = 32  # samples on which levels are tried; all of them would be encoded some ten times


def setting_for(
    share: Fraction, samples: Sequence[Sample], processor: Any, config: Any
) -> ImageSetting | None:
    """Find the highest level of the processor's lever that leaves a share of the visual tokens.

    Args:
        share: Share of the visual tokens, below 1.
        samples: Samples as the processor encodes them by itself; the first 32 with images count.
        processor: The model's processor.
        config: The model's config.

    Returns:
        The setting; None if even the lowest level leaves more, or no sample has an image.

    Raises:
        ModelError: The images of the model's family have one size.
    """
    lever = family_for(config.model_type).image_lever()
    tried = [sample for sample in samples if sample.n_visual][:_TRIED]
    limit = share * sum(sample.n_visual for sample in tried)
    low, found = 0, None
    # An image has at least as many tokens as tiles, or rows and columns.
    high = min(lever.most(processor), max((sample.n_visual for sample in tried), default=0))
    while low < high:
        level = (low + high + 1) // 2
        setting = ImageSetting(share, lever.attributes(processor, level))
        if sum(each.n_visual for each in encode_at(setting, tried, processor, config)) <= limit:
            low, found = level, setting
        else:
            high = level - 1
    return found


def encode_for(
    policy: Policy, samples: Sequence[Sample], processor: Any, config: Any
) -> list[Sample]:
    """Return samples as a policy reads them, with its image setting if it has one.

    Args:
        policy: The policy.
        samples: Samples as the processor encodes them by itself.
        processor: The model's processor.
        config: The model's config.
    """
    if policy.images is None:
        return list(samples)
    return encode_at(policy.images, samples, processor, config)


def encode_at(
    setting: ImageSetting,
    samples: Sequence[Sample],
    processor: Any,
    config: Any,
    progress: Callable[[int], None] | None = None,
) -> list[Sample]:
    """Encode samples again with an image setting; those that it does not change stay as they are.

    Args:
        setting: The setting.
        samples: Samples as the processor encodes them by itself.
        processor: The model's processor.
        config: The model's config.
        progress: Called with the number of encoded samples.
    """
    items = [sample.item for sample in samples]
    small = encode(items, setting.applied(processor), config, progress, lambda note: None)
    return [
        full
        if each.digest == full.digest
        else replace(each, digest=settings_digest([each.digest, full.digest]), original=full)
        for each, full in zip(small, samples, strict=True)
    ]
