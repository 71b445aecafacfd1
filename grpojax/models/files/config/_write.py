"""Hugging Face's config.json of a `TransformerConfig`."""

from ...transformer import LongRopeScaling, Rope, TransformerConfig
from ._families import FAMILIES
from ._family import Family, FULL, SHAPES, SLIDING
from ._read import config_from_huggingface
from ._rope import write_longrope, write_rope


def config_to_huggingface(config: TransformerConfig) -> dict[str, object]:
    """The config.json of the same model for `transformers`.

    Without a `family` it is a Qwen3 with query and key norms, a Qwen2 with projection
    biases, and otherwise a Llama. The keys are those of `transformers` 4 where it knows
    the family, which version 5 reads as well.

    **Arguments:**

    - `config`: the configuration.

    **Raises:** `ValueError` for a configuration that no family can express.
    """
    name = config.family
    if name is None:
        if config.qk_norm and config.qkv_bias:
            raise ValueError(
                "No architecture of Hugging Face has both qk_norm and qkv_bias without "
                "an output bias. Received a config with both, which cannot be saved."
            )
        name = "qwen3" if config.qk_norm else "qwen2" if config.qkv_bias else "llama"
        if name == "llama" and config.hidden_size % config.num_heads:
            # `transformers` rejects such a Llama, and runs it as a Mistral.
            name = "mistral"
    written = _write(config, name, FAMILIES[name])
    if config_from_huggingface(written) != config:
        raise ValueError(
            "A model is saved as an architecture of Hugging Face that computes the "
            f"same. Received a configuration that {name!r} does not express: "
            f"{config}. Set TransformerConfig.family to the one that it came from."
        )
    return written


def _write(config: TransformerConfig, name: str, family: Family) -> dict[str, object]:
    values = {
        "architectures": [family.architecture],
        "model_type": name,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        family.activation: config.switches.activation,
        "max_position_embeddings": config.max_positions,
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tied,
    }

    def field(path: str) -> object:
        owner = config.switches if path.startswith("block.") else config
        return getattr(owner, path.removeprefix("block."))

    values |= {key: field(paths[0]) for key, paths in family.switches.items()}
    values |= {key: field(path) for key, path in family.numbers.items()}
    if family.scales_by_size and config.switches.attention_scale is not None:
        values["query_pre_attn_scalar"] = round(config.switches.attention_scale**-2)
    values |= _write_experts(config, name)
    return values | _write_layers(config, name, family) | _write_ropes(config, family)


def _write_experts(config: TransformerConfig, name: str) -> dict[str, object]:
    """Experts, under the keys of `transformers` 4."""
    experts = config.switches.experts
    if experts is None:
        return {}
    values: dict[str, object] = {"num_experts_per_tok": experts.chosen}
    if name == "mixtral":
        return values | {"num_local_experts": experts.count}
    if experts.clamp is not None:
        gain, limit = experts.clamp
        values |= {"swiglu_alpha": gain, "swiglu_limit": limit}
        return values | {"num_local_experts": experts.count}
    values |= {"num_experts": experts.count, "norm_topk_prob": experts.normalizes}
    if name == "olmoe":
        return values
    if experts.shared is not None:
        values["shared_expert_intermediate_size"] = experts.shared
    return values | {
        "moe_intermediate_size": experts.size,
        "decoder_sparse_step": 1,
        "mlp_only_layers": list(experts.dense),
    }


def _write_layers(
    config: TransformerConfig, name: str, family: Family
) -> dict[str, object]:
    """Windows, and layers without a rotary embedding."""
    windows = [kind.window for kind in config.layers or ()]
    width = next((window for window in windows if window is not None), None)
    values: dict[str, object] = {"sliding_window": width}
    if "use_sliding_window" in family.reads and width is not None:
        values["use_sliding_window"] = True
        values["max_window_layers"] = windows.index(width)
    if family.has_types and (config.layers or name not in SHAPES):
        kinds = [FULL if window is None else SLIDING for window in windows]
        values["layer_types"] = kinds or [FULL] * config.num_layers
        if width is None and "use_sliding_window" not in family.reads:
            # `transformers` makes the mask of windows, whether a layer has one or not.
            values["sliding_window"] = config.max_positions
    if family.ropes is not FAMILIES["llama"].ropes:
        flags = [int(kind.rope is not None) for kind in config.layers or ()]
        values["no_rope_layers"] = flags or [1] * config.num_layers
    return values


def _write_ropes(config: TransformerConfig, family: Family) -> dict[str, object]:
    """Rotary embeddings, under the keys of `transformers` 4 if it has them."""
    plain = Rope(config.rope_theta, config.rope_scaling)
    ropes = [
        (kind.window, kind.rope)
        for kind in config.layers or ()
        if kind.rope is not None
    ]
    full = next((rope for window, rope in ropes if window is None), plain)
    scaling = write_rope(full) if full.scaling else None
    values = {"rope_theta": full.theta, "rope_scaling": scaling}
    if scaling is not None:
        del scaling["rope_theta"]
    if "rope_parameters" in family.defaults:  # Without, there would be a scaling.
        values["rope_parameters"] = write_rope(full)
    if family.local_theta is not None:
        own = Rope(family.local_theta)
        local = next((rope for window, rope in ropes if window is not None), own)
        nested = {FULL: write_rope(full), SLIDING: write_rope(local)}
        values["rope_parameters"] = nested
        if family.scales_by_size:
            values["rope_local_base_freq"] = local.theta
        return values
    if family.grows_queries and config.switches.query_growth is not None:
        beta, length = config.switches.query_growth
        own = {"llama_4_scaling_beta": beta, "original_max_position_embeddings": length}
        return {"rope_parameters": write_rope(full) | own}
    if "partial_rotary_factor" in family.reads:
        ropes = [rope for _, rope in ropes] or [plain]
        values["partial_rotary_factor"] = ropes[0].fraction
        limit = ropes[0].limit or config.max_positions
        values["original_max_position_embeddings"] = limit
        if isinstance(ropes[0].scaling, LongRopeScaling):
            written = write_longrope(ropes[0].scaling, config.max_positions)
            values |= {"rope_theta": ropes[0].theta, "rope_scaling": written}
    return values
