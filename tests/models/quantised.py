"""Checkpoints of a LLaVA with quantised weights, the vision tower included."""

import pytest
from transformers import LlavaForConditionalGeneration, TorchAoConfig

from tests.models.policies import LAYERS
from tests.support import tiny

GROUP = 8  # weights per scale; divides every width of the tiny model


def torchao_int8(folder):
    torchao = pytest.importorskip("torchao.quantization", reason="make test-lmms has torchao")
    stock, rounded = folder / "stock", folder / "rounded"
    tiny.llava(LAYERS).save_pretrained(stock)
    config = TorchAoConfig(torchao.Int8WeightOnlyConfig())
    model = LlavaForConditionalGeneration.from_pretrained(stock, quantization_config=config)
    model.save_pretrained(rounded)
    return rounded


def compressed(scheme, **config):
    """Return a function that saves a model in a compressed-tensors format of llm-compressor."""

    def saved(folder):
        reason = "make test-lmms has compressed-tensors"
        ct = pytest.importorskip("compressed_tensors", reason=reason)
        model = tiny.llava(LAYERS)
        groups = {"all": _scheme(ct.quantization, scheme)}
        made = ct.quantization.QuantizationConfig(
            config_groups=groups, ignore=["lm_head"], **config
        )
        ct.quantization.apply_quantization_config(model, made, show_progress=False)
        for module in model.modules():
            if hasattr(module, "weight_scale"):
                _measure(ct.quantization, module)
        compressor = ct.compressors.ModelCompressor.from_pretrained_model(model)
        compressor.compress_model(model)
        model.save_pretrained(folder)
        compressor.update_config(folder)
        return folder

    return saved


def _scheme(quantization, name):
    scheme = quantization.preset_name_to_scheme(name, ["Linear"])
    if scheme.weights.strategy == "group":
        scheme.weights.group_size = GROUP
    return scheme


def _measure(quantization, module):
    """Set the smallest scales that hold the weights, one per group or per row."""
    weights = module.quantization_scheme.weights
    grouped = module.weight.unflatten(1, (-1, weights.group_size or module.weight.shape[1]))
    ends = grouped.amin(-1), grouped.amax(-1)
    scale, zero = quantization.utils.calculate_qparams(*ends, weights)
    module.weight_scale.copy_(scale)
    module.weight_zero_point.copy_(zero)


FORMATS = {
    "torchao, int8": torchao_int8,
    "compressed-tensors, W4A16": compressed("W4A16"),
    "compressed-tensors, W8A16": compressed("W8A16"),
    "compressed-tensors, FP8_DYNAMIC": compressed("FP8_DYNAMIC"),
}
