"""KV cache of layers whose keys leave: a request holds blocks only for the keys that are kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from vllm.v1.core.single_type_kv_cache_manager import FullAttentionManager
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheSpec
from vllm.v1.kv_cache_spec_registry import KVCacheSpecRegistry

from opsearch.serving.identifiers import image_sizes
from opsearch.serving.key_parts import key_parts, keys_held
from opsearch.serving.served_policy import ServedPolicy
from opsearch.serving.shrink import prompt_images, visual_rows


@dataclass(frozen=True, kw_only=True)
class KeptKeysSpec(FullAttentionSpec):
    """Cache of a layer of a part.

    Attributes:
        part: Layers of the part.
    """

    part: tuple[int, ...]

    def is_uniform_with_collection(self, kv_cache_specs: Mapping[str, KVCacheSpec]) -> bool:
        """Return whether all layers are of this part."""
        return all(getattr(spec, "part", None) == self.part for spec in kv_cache_specs.values())

    @classmethod
    def merge(cls, specs: Any) -> KeptKeysSpec:
        """Return the spec of layers of one part; vLLM tries the others, too.

        Raises:
            AssertionError: They are of several parts; vLLM expects this exception.
        """
        if len(set(specs)) != 1:
            raise AssertionError("layers of different parts have different blocks")
        return specs[0]  # type: ignore[no-any-return]


class KeptKeysManager(FullAttentionManager):
    """Blocks of the requests in one part.

    Attributes:
        served: The policy.
        requests: Requests of the scheduler by their names.
    """

    served: ServedPolicy
    requests: Mapping[str, Any]

    def get_num_blocks_to_allocate(
        self, request_id: str, num_tokens: int, *args: Any, **kwargs: Any
    ) -> int:
        """Return the number of blocks that a request needs beyond its own."""
        held = self._held(request_id, num_tokens)
        blocks: int = super().get_num_blocks_to_allocate(request_id, held, *args, **kwargs)
        return blocks

    def allocate_new_blocks(
        self, request_id: str, num_tokens: int, num_tokens_main_model: int
    ) -> list[Any]:
        """Give a request the blocks for the keys of its first rows that are kept."""
        held = self._held(request_id, num_tokens)
        blocks: list[Any] = super().allocate_new_blocks(request_id, held, held)
        return blocks

    def _held(self, request_id: str, num_tokens: int) -> int:
        """Return how many slots the first rows of a request need, at most."""
        request = self.requests[request_id]
        if not request.mm_features:
            return num_tokens
        held: dict[int, list[int]] = vars(request).setdefault("opsearch_held", {})
        if self.kv_cache_group_id not in held:
            visual = visual_rows(request.num_prompt_tokens, prompt_images(request.mm_features))
            part, n_visual = self.kv_cache_spec.part, sum(image_sizes(request))
            held[self.kv_cache_group_id] = keys_held(self.served, part, visual, n_visual).tolist()
        slots = held[self.kv_cache_group_id]
        generated = max(num_tokens - int(request.num_prompt_tokens), 0)
        return slots[num_tokens - generated] + generated


def set_specs(decoder: Any, served: ServedPolicy) -> None:
    """Give the attention of each layer the cache of its part."""
    for part in key_parts(served):
        for number in part:
            attention = decoder.layers[number].self_attn.attn
            attention.get_kv_cache_spec = _SpecOfPart(attention.get_kv_cache_spec, part)


@dataclass(frozen=True)
class _SpecOfPart:
    """Attention.get_kv_cache_spec of a layer.

    Attributes:
        stock: vLLM's.
        part: Layers of its part.
    """

    stock: Any
    part: tuple[int, ...]

    def __call__(self, vllm_config: Any) -> KeptKeysSpec:
        spec = self.stock(vllm_config)
        return KeptKeysSpec(
            **{each.name: getattr(spec, each.name) for each in fields(spec)}, part=self.part
        )


# vLLM registers its own specs only while there are none.
KVCacheSpecRegistry._ensure_registered()
KVCacheSpecRegistry.register(KeptKeysSpec, KeptKeysManager, uniform_type_base_spec=KeptKeysSpec)
