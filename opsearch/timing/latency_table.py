"""Fit of a latency table on this device: parts of a prefill, timed on a small grid of rows.

Other processes can only add time, so the fastest of several rounds counts. When time is up, the
table is made from what was timed: first with fewer rounds, then with fewer points.
"""

from __future__ import annotations

import platform
import re
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from opsearch.costs.latency_table import LatencyTable
from opsearch.costs.shape import Shape
from opsearch.models.digests import settings_digest
from opsearch.models.encoding import Sample
from opsearch.models.spec import ModelSpec
from opsearch.timing.before_decoder import BeforeDecoder
from opsearch.timing.clock import Clock
from opsearch.timing.one_layer import OneLayer, Part
from opsearch.version import __version__

# Shares of the visual tokens, denser where matrix products are small.
_FINE = (0.0, 0.04, 0.12, 0.25, 0.5, 0.75, 1.0)
_COARSE = (0.0, 0.12, 0.4, 1.0)
_FEWEST = (0.0, 0.12, 0.5, 1.0), (0.0, 0.4, 1.0)  # fine and coarse shares that are always timed
_ROUNDS, _SECONDS = 12, 40.0
_SHORTEST = 2e-3  # seconds; parts that take less are timed several times in a row
_LONGEST_ROW = 8
_AHEAD = 50_000_000  # cycles that keep a GPU busy until the host has launched the timed part

Key = tuple[int, int, int]


def machine_of(config: Any, model: ModelSpec) -> str:
    """Describe the validity of a table: machine, versions, and the model except for its depth.

    Times do not depend on the values of weights.
    """
    cuda = model.device.startswith("cuda")
    name = torch.cuda.get_device_name(model.device) if cuda else _processor()
    threads = "" if cuda else f", {torch.get_num_threads()} threads"
    versions = ", ".join(f"{each} {version(each)}" for each in ("torch", "transformers"))
    versions += f", opsearch {__version__}"
    s = Shape.from_config(config)
    decoder = f"{config.get_text_config().model_type} of width {s.hidden}, MLP {s.intermediate}"
    heads = f"{s.heads} heads of {s.head_dim}, {s.kv_heads} for keys, vocabulary {s.vocab}"
    vision = getattr(config, "vision_config", None)
    images = vision.to_dict() if vision else {}
    config_digest = settings_digest([_layer_settings(config), images])[:12]
    decoder += f", {heads}, config {config_digest}"
    return f"{name}{threads}, {model.dtype}, {model.attention}, {versions}; {decoder}"


def _layer_settings(config: Any) -> dict[str, Any]:
    """Return the settings of a decoder's layers that do not depend on how it was loaded."""
    settings: dict[str, Any] = config.get_text_config().to_dict()
    kinds = settings.get("layer_types") or []
    settings["layer_types"] = list(dict.fromkeys(kinds))
    for name in ("_name_or_path", "transformers_version", "dtype", "num_hidden_layers"):
        settings.pop(name, None)
    return settings


def _processor() -> str:
    """Return the name of the processor and of the host, which identify the machine."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else []
    return f"{[*names, platform.processor() or platform.machine()][0]} of {platform.node()}"


@torch.inference_mode()
def fit_latency(
    config: Any,
    samples: Sequence[tuple[int, int]],
    model: ModelSpec,
    progress: Callable[[int, int], None] = lambda done, total: None,
    pictures: Sequence[Sample] = (),
) -> LatencyTable:
    """Fit the table for prompts of these sizes in less than a minute.

    It takes longer only where a few layers do: one round over a smaller grid is always made.

    Args:
        config: Config of the model.
        samples: Numbers of (visual, other) tokens of each sample.
        model: Its dtype, device and attention implementation.
        progress: Called with the numbers of finished rounds and of all.
        pictures: Samples whose images are timed, in the order of their FLOPs; none: the time is
            that of the decoder alone.
    """
    until = time.monotonic() + _SECONDS
    n_other = min(other for _, other in samples)
    n_visual = max(max(visual + other for visual, other in samples) - n_other, 1)
    one = OneLayer(config, n_visual, n_other, model)
    whole, layers = one.prefill()
    fine, coarse = _grid(_FINE, n_visual), _grid(_COARSE, n_visual)
    fewer = _grid(_FEWEST[1], n_visual)
    needed = _keys(_grid(_FEWEST[0], n_visual), fewer, layers)
    keys = list(dict.fromkeys([*needed, *_keys(fine, coarse, layers)]))
    images = _image_parts(config, pictures, model)
    parts: dict[Any, Part] = {
        "whole": whole, **images, **{key: one.layer(*key) for key in keys}
    }  # fmt: skip
    clock = Clock(torch.device(model.device))
    at, launched = _timed(parts, 1 + len(images) + len(needed), until, clock, progress)
    fine = [n for n in fine if {(n, n, 0), (0, 0, n)} <= at.keys()]
    if not {_split_key(q, kv) for q in coarse for kv in coarse} <= at.keys():
        coarse = fewer
    return LatencyTable(
        rows=tuple(n + n_other for n in fine),
        coarse=tuple(n + n_other for n in coarse),
        same=tuple(at[n, n, 0] for n in fine),
        split=tuple(tuple(at[_split_key(q, kv)] for kv in coarse) for q in coarse),
        mlp=tuple(at[0, 0, n] for n in fine),
        base=at[0, 0, 0],
        once=max(at["whole"] - sum(at[key] for key in layers), 0),
        launch=launched[0, 0, 0],
        launch_split=launched[_split_key(coarse[0], coarse[-1])],
        place=machine_of(config, model),
        image_flops=tuple(images),
        images=tuple(max(at[flops], launched[flops]) for flops in images),
    )


def _image_parts(config: Any, pictures: Sequence[Sample], model: ModelSpec) -> dict[int, Part]:
    """Return what comes before the decoder for samples, by the FLOPs of their images."""
    if not pictures:
        return {}
    before = BeforeDecoder(config, model)
    return {sample.image_flops or 0: before.part(sample) for sample in pictures}


def typical_pictures(samples: Sequence[Sample]) -> list[Sample]:
    """Return samples with the least, the median and the most FLOPs of images, in this order.

    Empty if the FLOPs of some are not known, as those of towers that are not described.
    """
    if any(sample.image_flops is None for sample in samples):
        return []
    by_flops = {sample.image_flops: sample for sample in samples if sample.image_flops}
    found = [by_flops[flops] for flops in sorted(by_flops)]
    return [found[i] for i in sorted({0, len(found) // 2, len(found) - 1})] if found else []


def _grid(shares: Sequence[float], n_visual: int) -> list[int]:
    """Return distinct numbers of visual tokens, including none and all."""
    return sorted({round(share * n_visual) for share in shares})


def _split_key(q: int, kv: int) -> Key:
    """Return a layer with different sets of query and key rows: equal counts are changed."""
    return (q, kv, 0) if q != kv else (max(q - 1, 0), max(kv, 1), 0)


def _keys(fine: Sequence[int], coarse: Sequence[int], layers: Sequence[Key]) -> list[Key]:
    """Return the layers to time, by their q, kv and mlp counts."""
    same = [(n, n, 0) for n in fine]
    split = [_split_key(q, kv) for q in coarse for kv in coarse]
    mlp = [(0, 0, n) for n in fine]
    return list(dict.fromkeys([*same, *split, *mlp, *layers]))


def _timed(
    parts: Mapping[Any, Part],
    needed: int,
    until: float,
    clock: Clock,
    progress: Callable[[int, int], None],
) -> tuple[dict[Any, int], dict[Any, int]]:
    """Return the fastest of several rounds for each part, in ns of the device and of the host.

    After `until`, only the rest of the first round's `needed` parts is timed.
    """
    in_a_row: dict[Any, int] = {}
    found: dict[Any, tuple[float, float]] = {}
    for done in range(_ROUNDS):
        if done and time.monotonic() > until:
            break
        for i, (key, part) in enumerate(parts.items()):
            if time.monotonic() > until and i >= needed * (done == 0):
                break
            times = in_a_row.get(key, 1)
            seconds = _call_seconds(part, times, clock)
            if not done:
                in_a_row[key] = min(max(round(_SHORTEST / max(seconds[0], 1e-9)), 1), _LONGEST_ROW)
            best = found.get(key, seconds)
            found[key] = min(best[0], seconds[0]), min(best[1], seconds[1])
        progress(done + 1, _ROUNDS)
    device = {key: round(1e9 * seconds) for key, (seconds, _) in found.items()}
    return device, {key: round(1e9 * seconds) for key, (_, seconds) in found.items()}


def _call_seconds(part: Part, times: int, clock: Clock) -> tuple[float, float]:
    """Return the seconds of one call on the device, and of the host to launch it (0 on a CPU)."""
    if clock.cuda:
        torch.cuda._sleep(_AHEAD)
    start, launching = clock.now(), time.perf_counter()
    for _ in range(times):
        part()
    host = time.perf_counter() - launching if clock.cuda else 0.0
    end = clock.now()
    clock.wait()
    return clock.seconds(start, end) / times, host / times
