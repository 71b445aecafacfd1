"""Weights and settings that are not finite are refused, and named."""

import json

import jax.random as jr
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from grpojax import models


CONFIG = dict(
    vocab_size=12,
    hidden_size=8,
    intermediate_size=16,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    head_dim=4,
)


@pytest.fixture
def saved(tmp_path):
    policy = models.Transformer(models.TransformerConfig(**CONFIG), key=jr.key(0))
    models.save(policy, tmp_path)
    return tmp_path


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "name", ["model.layers.1.mlp.up_proj.weight", "model.norm.weight"]
)
def test_weights(saved, name, value, dtype):
    path = saved / "model.safetensors"
    tensors = {key: x.copy() for key, x in load_file(path).items()}
    tensors[name].reshape(-1)[-1] = value
    save_file(tensors, path)
    with pytest.raises(ValueError, match=f"finite numbers.*safetensors has .*{name}"):
        models.load(saved, dtype=dtype)


def test_a_dtype_that_cannot_hold_them(saved):
    path = saved / "model.safetensors"
    tensors = {key: x.copy() for key, x in load_file(path).items()}
    tensors["model.norm.weight"][0] = 1e6
    save_file(tensors, path)
    models.load(saved, dtype="bfloat16")
    with np.errstate(over="ignore"):
        with pytest.raises(ValueError, match="read as float16.* choose another dtype"):
            models.load(saved, dtype="float16")


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "0", "-1", "true"])
@pytest.mark.parametrize("key", ["rms_norm_eps", "rope_theta"])
def test_settings(saved, key, value):
    config = json.loads((saved / "config.json").read_text())
    text = json.dumps(config | {key: "HERE"}).replace('"HERE"', value)
    (saved / "config.json").write_text(text)
    with pytest.raises(ValueError, match=f"`{key}` in config.json must be a positive"):
        models.load(saved)


@pytest.mark.parametrize("key", ["hidden_size", "vocab_size", "num_hidden_layers"])
@pytest.mark.parametrize("value", [10**400, 2**31, True, 0])
def test_sizes(saved, key, value):
    config = json.loads((saved / "config.json").read_text()) | {key: value}
    (saved / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=f"`{key}` in config.json must be a positive"):
        models.load(saved)


@pytest.mark.parametrize(
    "content", [b"\xff{}", b"[1]", b"[" * 100_000, b"{", b'{"a": ' + b"9" * 5000 + b"}"]
)
def test_files_that_are_no_object(saved, content):
    (saved / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match="config.json is not a JSON object"):
        models.load(saved)


@pytest.mark.parametrize("name", ["norm_eps", "rope_theta"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0, -1.0])
def test_a_configuration_in_python(name, value):
    with pytest.raises(ValueError, match=f"TransformerConfig.{name} must be positive"):
        models.TransformerConfig(**CONFIG, **{name: value})


def test_scaling():
    scaling = models.Llama3Scaling(8.0, 4.0, 4.0, 8192)
    with pytest.raises(ValueError, match="low_freq_factor must be below"):
        models.TransformerConfig(**CONFIG, rope_scaling=scaling)
    scaling = models.Llama3Scaling(float("inf"), 1.0, 4.0, 8192)
    with pytest.raises(ValueError, match="TransformerConfig.factor must be positive"):
        models.TransformerConfig(**CONFIG, rope_scaling=scaling)
