"""Tiny random models in Hugging Face directories, and what they should compute."""

import json
import math

import numpy as np
from safetensors.numpy import save_file


SIZES = dict(
    vocab_size=19,
    hidden_size=16,
    intermediate_size=20,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=6,
    rms_norm_eps=1e-5,
    max_position_embeddings=64,
)
LLAMA3 = dict(
    factor=4.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=32,
)
FAMILIES = {
    "llama": dict(model_type="llama", rope_theta=100.0),
    "llama3": dict(model_type="llama", rope_theta=100.0, rope_scaling=LLAMA3),
    "mistral": dict(model_type="mistral", rope_theta=1000.0, sliding_window=None),
    "qwen2": dict(model_type="qwen2", rope_theta=1e6),
    "qwen3": dict(model_type="qwen3", rope_theta=1e4),
}
CASES = [(family, tied) for family in FAMILIES for tied in (False, True)]


def huggingface_config(family, tied, form="4", **changes):
    """A config.json as `transformers` 4 or 5 writes it."""
    values = SIZES | FAMILIES[family]
    values |= dict(tie_word_embeddings=tied, hidden_act="silu")
    theta, scaling = values.pop("rope_theta"), values.pop("rope_scaling", None)
    if form == "4":
        rope = scaling and {"type": "llama3", "rope_type": "llama3", **scaling}
        values |= dict(rope_theta=theta, rope_scaling=rope, torch_dtype="float32")
    else:
        kind = "llama3" if scaling else "default"
        rope = {"rope_theta": theta, "rope_type": kind, **(scaling or {})}
        values |= dict(rope_parameters=rope, dtype="float32")
    return values | changes


def random_tensors(family, tied, dtype=np.float32):
    """Every tensor of a checkpoint, output-first, by Hugging Face's name."""
    draw = np.random.default_rng(0)
    hidden, mlp, vocab = 16, 20, 19
    heads, kv = 4 * 6, 2 * 6
    norm = lambda size: 1 + 0.3 * draw.normal(size=size)
    matrix = lambda out, inputs: draw.normal(size=(out, inputs)) / math.sqrt(inputs)
    tensors = {
        "model.embed_tokens.weight": draw.normal(size=(vocab, hidden)),
        "model.norm.weight": norm(hidden),
    }
    if not tied:
        tensors["lm_head.weight"] = matrix(vocab, hidden)
    for layer in range(2):
        here = {
            "input_layernorm.weight": norm(hidden),
            "post_attention_layernorm.weight": norm(hidden),
            "self_attn.q_proj.weight": matrix(heads, hidden),
            "self_attn.k_proj.weight": matrix(kv, hidden),
            "self_attn.v_proj.weight": matrix(kv, hidden),
            "self_attn.o_proj.weight": matrix(hidden, heads),
            "mlp.gate_proj.weight": matrix(mlp, hidden),
            "mlp.up_proj.weight": matrix(mlp, hidden),
            "mlp.down_proj.weight": matrix(hidden, mlp),
        }
        if family == "qwen2":
            for name, size in (("q", heads), ("k", kv), ("v", kv)):
                here[f"self_attn.{name}_proj.bias"] = draw.normal(size=size)
        if family == "qwen3":
            here |= {f"self_attn.{name}_norm.weight": norm(6) for name in "qk"}
        tensors |= {f"model.layers.{layer}.{name}": x for name, x in here.items()}
    return {name: np.ascontiguousarray(x.astype(dtype)) for name, x in tensors.items()}


def write_directory(directory, config, tensors, *, shards=1):
    """A model directory as `save_pretrained` leaves it."""
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config))
    if shards == 1:
        save_file(tensors, directory / "model.safetensors")
        return directory
    weight_map = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        names = sorted(tensors)[shard::shards]
        save_file({name: tensors[name] for name in names}, directory / file)
        weight_map |= dict.fromkeys(names, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return directory


def _norm(x, scale, eps):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * scale


def _frequencies(family, head_dim):
    values = FAMILIES[family]
    for pair in range(head_dim // 2):
        frequency = 1 / values["rope_theta"] ** (2 * pair / head_dim)
        if "rope_scaling" in values:
            scaling = values["rope_scaling"]
            length, wavelength = 32, 2 * math.pi / frequency
            low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
            if wavelength > length / low:
                frequency /= scaling["factor"]
            elif wavelength >= length / high:
                smooth = (length / wavelength - low) / (high - low)
                frequency *= (1 - smooth) / scaling["factor"] + smooth
        yield frequency


def _attention(x, weights, family, eps):
    """One token and one head at a time, with rotations as complex numbers."""
    frequencies = np.array(list(_frequencies(family, 6)))

    def heads(name):
        y = x @ weights[f"{name}_proj.weight"].T + weights.get(f"{name}_proj.bias", 0)
        y = y.reshape(len(x), -1, 6)
        if f"{name}_norm.weight" in weights:
            y = _norm(y, weights[f"{name}_norm.weight"], eps)
        if name == "v":
            return y
        turned = y[..., :3] + 1j * y[..., 3:]
        turned = turned * np.exp(1j * np.arange(len(x))[:, None] * frequencies)[:, None]
        return np.concatenate([turned.real, turned.imag], -1)

    query, key, value = heads("q"), heads("k"), heads("v")
    mixed = np.zeros_like(query)
    for t in range(len(x)):
        for head in range(4):
            scores = key[: t + 1, head // 2] @ query[t, head] / math.sqrt(6)
            weight = np.exp(scores - scores.max())
            mixed[t, head] = weight / weight.sum() @ value[: t + 1, head // 2]
    return mixed.reshape(len(x), -1) @ weights["o_proj.weight"].T


def reference_logits(family, tensors, tokens, eps=1e-5):
    """A decoder in float64 NumPy, straight from a checkpoint's tensors."""
    tensors = {name: x.astype(np.float64) for name, x in tensors.items()}
    embedding = tensors["model.embed_tokens.weight"]
    x = embedding[tokens]
    for layer in range(2):
        start = f"model.layers.{layer}."
        here = {k.removeprefix(start): v for k, v in tensors.items() if start in k}
        attention = {k.removeprefix("self_attn."): v for k, v in here.items()}
        normed = _norm(x, here["input_layernorm.weight"], eps)
        x = x + _attention(normed, attention, family, eps)
        normed = _norm(x, here["post_attention_layernorm.weight"], eps)
        gate = normed @ here["mlp.gate_proj.weight"].T
        up = normed @ here["mlp.up_proj.weight"].T
        x = x + (gate / (1 + np.exp(-gate)) * up) @ here["mlp.down_proj.weight"].T
    hidden = _norm(x, tensors["model.norm.weight"], eps)
    return hidden @ tensors.get("lm_head.weight", embedding).T


def make_directory(directory, family="llama", tied=False, **config):
    """A directory of a random tiny model: float32, one file."""
    tensors = random_tensors(family, tied)
    return write_directory(
        directory, huggingface_config(family, tied, **config), tensors
    )
