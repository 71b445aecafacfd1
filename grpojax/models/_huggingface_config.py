"""Hugging Face's config.json to a `TransformerConfig` and back."""

from collections.abc import Mapping

from ._config import Llama3Scaling, TransformerConfig


# Model type to the class that `transformers` makes of it.
_ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}

_SIZES = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "intermediate_size": "intermediate_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "norm_eps": "rms_norm_eps",
    "max_positions": "max_position_embeddings",
}

# Keys that change the arithmetic, and the values under which they do not.
_ONLY = {
    "hidden_act": ("silu", "swish"),
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "partial_rotary_factor": (1, None),
    "original_max_position_embeddings": (None,),
    "use_sliding_window": (False, None),
    "quantization_config": (None,),
}

_LLAMA3 = (
    "factor",
    "low_freq_factor",
    "high_freq_factor",
    "original_max_position_embeddings",
)


def config_from_huggingface(values: Mapping[str, object]) -> TransformerConfig:
    """The shape that a config.json describes.

    **Arguments:**

    - `values`: the file's content, as `transformers` 4 or 5 writes it, of model type
        `llama`, `mistral`, `qwen2` or `qwen3`.

    **Raises:** `ValueError` when the model type is another, when a size is missing, or
    for a key that would change the arithmetic to one that is not implemented.
    """
    family = values.get("model_type")
    if family not in _ARCHITECTURES:
        raise ValueError(
            f"A model's `model_type` must be one of {', '.join(_ARCHITECTURES)}. "
            f"Received {family!r}, an architecture that is not implemented."
        )
    missing = [key for key in _SIZES.values() if values.get(key) is None]
    if missing:
        raise ValueError(
            f"The config of a {family} model needs {', '.join(missing)}, which it "
            "lacks. Take config.json from where the weights came from."
        )
    for key, allowed in _ONLY.items():
        if values.get(key, allowed[0]) not in allowed:
            _refuse(key, values[key], allowed[0])
    for kind in values.get("layer_types") or ():
        if kind != "full_attention":
            _refuse("layer_types", values["layer_types"], "full_attention everywhere")
    # A Mistral config that is silent about its window has one: Mistral 7B v0.1 did.
    window = values.get("sliding_window", 4096) if family == "mistral" else None
    if window is not None and window < values["max_position_embeddings"]:
        _refuse("sliding_window", window, None)
    theta, scaling = _rope(values)
    heads = values["num_attention_heads"]
    head_dim = values.get("head_dim")
    if head_dim is None:
        head_dim, rest = divmod(values["hidden_size"], heads)
        if rest:
            raise ValueError(
                "Without `head_dim`, hidden_size is divided by the heads. Received "
                f"hidden_size={values['hidden_size']}, num_attention_heads={heads}."
            )
    return TransformerConfig(
        **{ours: values[theirs] for ours, theirs in _SIZES.items()},
        num_kv_heads=values.get("num_key_value_heads") or heads,
        head_dim=head_dim,
        rope_theta=theta,
        rope_scaling=scaling,
        qkv_bias=family == "qwen2",
        qk_norm=family == "qwen3",
        tied=bool(values.get("tie_word_embeddings", False)),
    )


def config_to_huggingface(config: TransformerConfig) -> dict[str, object]:
    """The config.json from which `transformers` makes the same model.

    Query and key norms make it a Qwen3, projection biases a Qwen2; all others are
    Llamas. The keys are those of `transformers` 4, which 5 reads as well.

    **Raises:** `ValueError` for a shape that is none of these architectures.
    """
    if config.qk_norm and config.qkv_bias:
        raise ValueError(
            "No architecture of Hugging Face has both qk_norm and qkv_bias without an "
            "output bias. Received a config with both, which cannot be saved for it."
        )
    family = "qwen3" if config.qk_norm else "qwen2" if config.qkv_bias else "llama"
    if family == "llama" and config.hidden_size % config.num_heads:
        # `transformers` refuses such a Llama. A Mistral is one without that check.
        family = "mistral"
    scaling = config.rope_scaling
    return {
        "architectures": [_ARCHITECTURES[family]],
        "model_type": family,
        **{theirs: getattr(config, ours) for ours, theirs in _SIZES.items()},
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "rope_theta": config.rope_theta,
        "rope_scaling": None
        if scaling is None
        else {"rope_type": "llama3", **{key: getattr(scaling, key) for key in _LLAMA3}},
        "sliding_window": None,
        "tie_word_embeddings": config.tied,
    }


def _rope(values: Mapping[str, object]) -> tuple[float, Llama3Scaling | None]:
    """Theta and scaling, from `rope_parameters` or `rope_theta` and `rope_scaling`."""
    name = "rope_scaling" if values.get("rope_scaling") else "rope_parameters"
    rope = values.get(name) or {}
    theta = rope.get("rope_theta") or values.get("rope_theta") or 10_000.0
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "llama3"):
        _refuse(f"{name}.rope_type", kind, "default or llama3")
    needed = _LLAMA3 if kind == "llama3" else ()
    missing = [key for key in needed if rope.get(key) is None]
    if missing:
        raise ValueError(
            f"`{name}` of type llama3 needs {', '.join(missing)}. Received {rope!r}."
        )
    known = {"rope_theta": rope.get("rope_theta"), "partial_rotary_factor": 1.0}
    known |= {"rope_type": kind, "type": kind} | {key: rope[key] for key in needed}
    for key, value in rope.items():
        if key not in known or value != known[key]:
            _refuse(f"{name}.{key}", value, known.get(key))
    if not needed:
        return float(theta), None
    *factors, original = (rope[key] for key in _LLAMA3)
    return float(theta), Llama3Scaling(*map(float, factors), original)


def _refuse(key: str, value: object, implemented: object) -> None:
    raise ValueError(
        f"`{key}` = {value!r} in config.json changes the arithmetic in a way that is "
        f"not implemented; only {implemented!r} is. Such a model cannot be loaded."
    )
