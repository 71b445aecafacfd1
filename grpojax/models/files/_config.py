"""Conversion between Hugging Face's config.json and `TransformerConfig`."""

import dataclasses
import sys
from collections.abc import Mapping
from typing import NoReturn

from ..transformer import Llama3Scaling, TransformerConfig


# The class of `transformers` for each model type.
_ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}

# Keys that may change the arithmetic, and their values that do not.
_ONLY = {
    "hidden_act": ("silu", "swish"),
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "partial_rotary_factor": (1, None),
    "original_max_position_embeddings": (None,),
    "use_sliding_window": (False, None),
    "quantization_config": (None,),
}


def config_from_huggingface(values: Mapping[str, object]) -> TransformerConfig:
    """The configuration of a Hugging Face config.json.

    **Arguments:**

    - `values`: the file's content, as `transformers` 4 or 5 writes it, of model type
        `llama`, `mistral`, `qwen2` or `qwen3`.

    **Raises:** `ValueError` for another model type, a missing size, or a key that would
    change the arithmetic to one that is not implemented.
    """
    family = values.get("model_type")
    if family not in _ARCHITECTURES:
        raise ValueError(
            f"A model's `model_type` must be one of {', '.join(_ARCHITECTURES)}. "
            f"Received {family!r}, an architecture that is not implemented."
        )
    for key, allowed in _ONLY.items():
        if values.get(key, allowed[0]) not in allowed:
            _refuse(key, values[key], allowed[0])
    kinds = values.get("layer_types")
    if isinstance(kinds, list) and set(kinds) - {"full_attention"}:
        _refuse("layer_types", kinds, "full_attention")
    max_positions = _integer(values, "max_position_embeddings")
    # A Mistral configuration without a window has the default: Mistral 7B v0.1 did.
    window = values.get("sliding_window", 4096) if family == "mistral" else None
    if isinstance(window, int) and window < max_positions:
        _refuse("sliding_window", window, None)
    hidden_size = _integer(values, "hidden_size")
    num_heads = _integer(values, "num_attention_heads")
    if values.get("head_dim") is None and hidden_size % num_heads:
        raise ValueError(
            "Without `head_dim`, hidden_size is divided by the heads. Received "
            f"hidden_size={hidden_size}, num_attention_heads={num_heads}."
        )
    theta, scaling = _rope(values)
    return TransformerConfig(
        vocab_size=_integer(values, "vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=_integer(values, "intermediate_size"),
        num_layers=_integer(values, "num_hidden_layers"),
        num_heads=num_heads,
        num_kv_heads=_integer(values, "num_key_value_heads", num_heads),
        head_dim=_integer(values, "head_dim", hidden_size // num_heads),
        rope_theta=theta,
        rope_scaling=scaling,
        norm_eps=_number(values, "rms_norm_eps"),
        qkv_bias=family == "qwen2",
        qk_norm=family == "qwen3",
        tied=bool(values.get("tie_word_embeddings", False)),
        max_positions=max_positions,
    )


def config_to_huggingface(config: TransformerConfig) -> dict[str, object]:
    """The config.json of the same model for `transformers`.

    With query and key norms it is a Qwen3, with projection biases a Qwen2, otherwise a
    Llama. The keys are those of `transformers` 4, which version 5 reads as well.

    **Arguments:**

    - `config`: the configuration.

    **Raises:** `ValueError` for a configuration that none of these can express.
    """
    if config.qk_norm and config.qkv_bias:
        raise ValueError(
            "No architecture of Hugging Face has both qk_norm and qkv_bias without an "
            "output bias. Received a config with both, which cannot be saved."
        )
    family = "qwen3" if config.qk_norm else "qwen2" if config.qkv_bias else "llama"
    if family == "llama" and config.hidden_size % config.num_heads:
        # `transformers` rejects such a Llama, and runs it as a Mistral.
        family = "mistral"
    scaling = config.rope_scaling
    return {
        "architectures": [_ARCHITECTURES[family]],
        "model_type": family,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": config.max_positions,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": scaling
        and {"rope_type": "llama3", **dataclasses.asdict(scaling)},
        "sliding_window": None,
        "tie_word_embeddings": config.tied,
    }


def _rope(values: Mapping[str, object]) -> tuple[float, Llama3Scaling | None]:
    """Theta and scaling, from `rope_parameters` or `rope_theta` and `rope_scaling`."""
    name = "rope_scaling" if values.get("rope_scaling") else "rope_parameters"
    rope = values.get(name) or {}
    if not isinstance(rope, dict):
        _refuse(name, rope, None)
    theta = _number(rope, "rope_theta", _number(values, "rope_theta", 10_000.0))
    kind = rope.get("rope_type", rope.get("type", "default"))
    scaling = None
    if kind == "llama3":
        scaling = Llama3Scaling(
            factor=_number(rope, "factor"),
            low_freq_factor=_number(rope, "low_freq_factor"),
            high_freq_factor=_number(rope, "high_freq_factor"),
            original_max_position_embeddings=_integer(
                rope, "original_max_position_embeddings"
            ),
        )
    elif kind != "default":
        _refuse(f"{name}.rope_type", kind, "default or llama3")
    known = {"rope_theta": rope.get("rope_theta"), "partial_rotary_factor": 1.0}
    known |= {"rope_type": kind, "type": kind}
    known |= dataclasses.asdict(scaling) if scaling else {}
    for key, value in rope.items():
        if key not in known or value != known[key]:
            _refuse(f"{name}.{key}", value, known.get(key))
    return theta, scaling


def _integer(values: Mapping[str, object], key: str, default: int | None = None) -> int:
    value = default if values.get(key) is None else values[key]
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**31:
        raise ValueError(
            f"`{key}` in config.json must be a positive integer of 32 bits. Received "
            f"{value!r:.80}. Take config.json from where the weights came from."
        )
    return value


def _number(
    values: Mapping[str, object], key: str, default: float | None = None
) -> float:
    value = default if values.get(key) is None else values[key]
    # Python's JSON has NaN, Infinity, and integers of any length.
    if (
        not isinstance(value, int | float)
        or isinstance(value, bool)
        or not 0 < value <= sys.float_info.max
    ):
        raise ValueError(
            f"`{key}` in config.json must be a positive, finite number. Received "
            f"{value!r:.80}. Take config.json from where the weights came from."
        )
    return float(value)


def _refuse(key: str, value: object, implemented: object) -> NoReturn:
    raise ValueError(
        f"`{key}` = {value!r} in config.json changes the arithmetic in a way that is "
        f"not implemented; only {implemented!r} is. Such a model cannot be loaded."
    )
