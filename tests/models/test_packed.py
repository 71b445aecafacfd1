"""Files of gpt-oss: experts of a layer in one tensor, in 16 bits or in 4."""

import json

import families
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from grpojax import models, policy
from grpojax.models.files._packed import unpack_mxfp4
from grpojax.models.files._safetensors import read_header


VALUES = [0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6]


def packed(draw, experts, outputs, blocks):
    """Bytes and exponents, and the numbers that they mean, one by one."""
    numbers = draw.integers(0, 256, (experts, outputs, blocks, 16), np.uint8)
    scales = draw.integers(120, 128, (experts, outputs, blocks), np.uint8)
    dense = np.zeros((experts, blocks * 32, outputs), np.float32)
    for at in np.ndindex(*scales.shape):
        expert, output, block = at
        for i, byte in enumerate(numbers[at]):
            for nibble, bits in enumerate((byte & 15, byte >> 4)):
                place = expert, block * 32 + 2 * i + nibble, output
                dense[place] = VALUES[bits] * 2.0 ** (int(scales[at]) - 127)
    return numbers, scales, dense


def test_four_bits_are_read_slice_by_slice(tmp_path):
    numbers, scales, dense = packed(np.random.default_rng(0), 3, 4, 2)
    save_file({"x_blocks": numbers, "x_scales": scales}, tmp_path / "a")
    (tensor,) = unpack_mxfp4(read_header(tmp_path / "a")).values()
    assert tensor.name == "x" and tensor.shape == dense.shape
    found = tensor.read()
    assert found.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(found.astype(np.float32), dense)
    part = slice(1, 3), slice(5, 40), slice(2, 4)
    np.testing.assert_array_equal(tensor.read(part), found[part])


def test_a_model_of_four_bits_is_that_of_its_numbers(tmp_path):
    values = families.config_of("gpt_oss", 0) | dict(intermediate_size=32)
    dense = families.write(tmp_path / "dense", values)
    tensors = load_file(dense / "model.safetensors")
    quantized, draw = dict(tensors), np.random.default_rng(1)
    for name in tensors:
        if name.endswith("experts.gate_up_proj") or name.endswith("experts.down_proj"):
            experts, inputs, outputs = tensors[name].shape
            numbers, scales, exact = packed(draw, experts, outputs, inputs // 32)
            quantized |= {f"{name}_blocks": numbers, f"{name}_scales": scales}
            tensors[name] = exact
            del quantized[name]
    save_file(tensors, dense / "model.safetensors", {"format": "pt"})
    four = tmp_path / "four"
    four.mkdir()
    method = dict(quantization_config=dict(quant_method="mxfp4"))
    (four / "config.json").write_text(json.dumps(values | method))
    save_file(quantized, four / "model.safetensors", {"format": "pt"})
    expected = policy.logits(models.load(dense), families.TOKENS[:9])
    loaded = models.load(four)
    found = policy.logits(loaded, families.TOKENS[:9])
    np.testing.assert_array_equal(found, expected)
    models.save(loaded, tmp_path / "again")  # In the dtype that they are computed in.
    assert "quantization_config" not in (tmp_path / "again" / "config.json").read_text()

    quantized.pop("model.layers.1.mlp.experts.down_proj_scales")
    save_file(quantized, four / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="a scale for each block. Received model.lay"):
        models.load(four)


def test_other_quantized_weights_are_refused():
    values = families.config_of("gpt_oss", 0)
    values |= dict(quantization_config=dict(quant_method="awq"))
    with pytest.raises(ValueError, match="quantization_config"):
        models.config_from_huggingface(values)
