"""A `TransformerConfig` from Hugging Face's config.json."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ...transformer import Block, LayerKind, LongRopeScaling, Rope, TransformerConfig
from ._families import FAMILIES
from ._family import Family, FULL, SHAPES, SLIDING
from ._rope import RopeReader
from ._values import integer, number, refuse, switch


# Keys that may change the arithmetic, and their values that do not.
_ONLY = {
    "partial_rotary_factor": (1, None),
    "original_max_position_embeddings": (None,),
    "use_sliding_window": (False, None),
    "quantization_config": (None,),
    "is_causal": (True,),
    "router_jitter_noise": (0, None),
    "use_bidirectional_attention": (False, None),
}
_ROPE = "rope_parameters"  # Null is the family's own.
_ACTIVATIONS = {name: name for name in ("silu", "gelu", "gelu_pytorch_tanh")}
_ACTIVATIONS["swish"] = "silu"


def config_from_huggingface(values: Mapping[str, object]) -> TransformerConfig:
    """The configuration of a Hugging Face config.json.

    **Arguments:**

    - `values`: the file's content, as `transformers` 4 or 5 writes it.

    **Raises:** `ValueError` for a model type that is not implemented, a missing size,
    or a key that would change the arithmetic to one that is not implemented.
    """
    name = values.get("model_type")
    if not isinstance(name, str) or name not in FAMILIES:
        raise ValueError(
            f"A model's `model_type` must be one of {', '.join(FAMILIES)}. "
            f"Received {name!r}, an architecture that is not implemented."
        )
    family = FAMILIES[name]
    given = {k: x for k, x in values.items() if x is not None or k != _ROPE}
    values = {**family.defaults, **given}
    _check(family, values)
    hidden_size = integer(values, "hidden_size")
    num_heads = integer(values, "num_attention_heads")
    if values.get("head_dim") is None and hidden_size % num_heads:
        raise ValueError(
            "Without `head_dim`, hidden_size is divided by the heads. Received "
            f"hidden_size={hidden_size}, num_attention_heads={num_heads}."
        )
    head_dim = integer(values, "head_dim", hidden_size // num_heads)
    num_layers = integer(values, "num_hidden_layers")
    rope, local, growth = _ropes(family, values, head_dim)
    block, fields = family.block, {}
    for path, value in _fields(family, values).items():
        if path.startswith("block."):
            block = block._replace(**{path.removeprefix("block."): value})
        else:
            fields[path] = value
    experts = None if family.experts is None else family.experts(values, num_layers)
    block = block._replace(query_growth=growth, experts=experts)
    layers = _layers(family, values, num_layers, rope, local)
    plain = name in SHAPES and not layers and block == family.block
    config = TransformerConfig(
        vocab_size=integer(values, "vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=integer(values, "intermediate_size"),
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=integer(values, "num_key_value_heads", num_heads),
        head_dim=head_dim,
        rope_theta=rope.theta,
        rope_scaling=rope.scaling,
        norm_eps=number(values, "rms_norm_eps"),
        qkv_bias=family.qkv_bias,
        qk_norm=family.qk_norm,
        tied=bool(values.get("tie_word_embeddings", False)),
        max_positions=integer(values, "max_position_embeddings"),
        layers=layers or None,
        block=None if block == Block() else block,
        family=None if plain else name,
    )
    return dataclasses.replace(config, **fields)


def _check(family: Family, values: Mapping[str, object]) -> None:
    """Refuses what would change the arithmetic and is not implemented."""
    for key, allowed in _ONLY.items():
        if key not in family.reads and values.get(key, allowed[0]) not in allowed:
            refuse(key, values[key], allowed[0])
    quantized = values.get("quantization_config")
    if family.is_packed and quantized is not None:
        method = quantized.get("quant_method") if isinstance(quantized, dict) else None
        if method != "mxfp4":
            refuse("quantization_config", quantized, "mxfp4")
    for key in family.refuses:
        if values.get(key) is not None:
            refuse(key, values[key], None)
    activation = values.get(family.activation, "silu")
    if not isinstance(activation, str) or activation not in _ACTIVATIONS:
        refuse(family.activation, activation, " or ".join(_ACTIVATIONS))


def _fields(family: Family, values: Mapping[str, object]) -> dict[str, Any]:
    """Fields of the configuration that keys set, by their paths."""
    name = str(values.get(family.activation, "silu"))
    found: dict[str, Any] = {"block.activation": _ACTIVATIONS[name]}
    for key, paths in family.switches.items():
        found |= dict.fromkeys(paths, switch(values, key))
    for key, path in family.numbers.items():
        is_off = key in family.optional and values.get(key) is None
        found[path] = None if is_off else number(values, key)
    if family.scales_by_size:
        found["embedding_scale"] = integer(values, "hidden_size") ** 0.5
        scalar = integer(values, "query_pre_attn_scalar")
        found["block.attention_scale"] = scalar**-0.5
    return found


def _ropes(
    family: Family, values: Mapping[str, object], head_dim: int
) -> tuple[Rope, Rope, tuple[float, int] | None]:
    """The rotary embedding, that of layers with windows, and the queries' growth."""
    original = "original_max_position_embeddings"
    reader = RopeReader(
        max_positions=integer(values, "max_position_embeddings"),
        original=integer(values, original) if original in family.reads else None,
        is_partial="partial_rotary_factor" in family.reads,
        kinds=family.rope_kinds,
    )
    theta = number(values, "rope_theta", 10_000.0)
    key = "rope_scaling" if values.get("rope_scaling") else "rope_parameters"
    if family.local_theta is not None:
        rope, local = _nested_ropes(family, values, reader, theta)
        ropes, growth = (rope, local), None
    else:
        given, growth = values.get(key) or {}, None
        if family.grows_queries:
            given, growth = _query_growth(given, key)
        fraction = number(values, "partial_rotary_factor", 1.0)
        rope = local = reader.read(key, given, theta, fraction)
        ropes = (rope,)
    for one in ropes:
        scaling, pairs = one.scaling, one.rotated(head_dim) // 2
        if isinstance(scaling, LongRopeScaling):
            for factors in ("short_factor", "long_factor"):
                if len(getattr(scaling, factors)) != pairs:
                    refuse(f"{key}.{factors}", "a list", f"one of {pairs} numbers")
    return rope, local, growth


def _nested_ropes(
    family: Family, values: Mapping[str, object], reader: RopeReader, theta: float
) -> tuple[Rope, Rope]:
    """The ropes of layers without and with windows, under the names of their kinds."""
    nested = values.get("rope_parameters") or {}
    if not isinstance(nested, dict) or set(nested) - {FULL, SLIDING}:
        refuse("rope_parameters", nested, f"{FULL} and {SLIDING}")
    full, sliding = (dict(nested.get(kind) or {}) for kind in (FULL, SLIDING))
    scaling = values.get("rope_scaling") or {}
    if not isinstance(scaling, dict):
        refuse("rope_scaling", scaling, None)
    full |= scaling
    for kind, rope in ((FULL, full), (SLIDING, sliding)):
        if rope.get("truncate", True) is not True:
            refuse(f"rope_parameters.{kind}.truncate", rope["truncate"], True)
    local = family.local_theta
    is_gemma = family.scales_by_size
    if is_gemma:
        local = number(values, "rope_local_base_freq", local)
    elif theta != local and sliding.get("rope_theta") is None:
        # `transformers` 4 and 5 differ in what windows have then.
        refuse("rope_theta", theta, local)
    name = f"rope_parameters.{FULL}"
    rope = reader.read(name, full, theta, 1.0)
    return rope, reader.read(f"rope_parameters.{SLIDING}", sliding, local or theta, 1.0)


def _query_growth(
    rope: object, name: str
) -> tuple[dict[str, object], tuple[float, int]]:
    """Ministral 3's rope without the keys of its own, and what they say."""
    if not isinstance(rope, dict):
        refuse(name, rope, None)
    if not rope:
        rope = dict(
            rope_type="yarn",
            rope_theta=1e6,
            factor=16.0,
            original_max_position_embeddings=16_384,
            mscale=1.0,
            mscale_all_dim=1.0,
            llama_4_scaling_beta=0.1,
        )
    key = "original_max_position_embeddings"
    growth = number(rope, "llama_4_scaling_beta"), integer(rope, key)
    own = {"llama_4_scaling_beta", "max_position_embeddings"}
    if rope.get("rope_type", rope.get("type", "default")) == "default":
        own |= {key}
    return {k: x for k, x in rope.items() if k not in own}, growth


def _layers(
    family: Family, values: Mapping[str, object], count: int, rope: Rope, local: Rope
) -> tuple[LayerKind, ...]:
    """The kind of every layer; none if all attend to everything with a plain rope."""
    types, slides = values.get("layer_types"), []
    if types is not None and not isinstance(types, list):
        refuse("layer_types", types, FULL)
    if types is not None:
        may_slide = family.has_types and values.get("sliding_window") is not None
        if "use_sliding_window" in family.reads:
            may_slide = may_slide and switch(values, "use_sliding_window")
        known = {FULL, SLIDING} if may_slide else {FULL}
        if set(map(str, types)) - known or len(types) != count:
            refuse("layer_types", types, FULL)
    if types is not None and family.has_types:
        slides = [kind == SLIDING for kind in types]
    else:
        slides = family.windows(values, count)
    rotated = family.ropes(values, count) or ([True] * count if any(slides) else [])
    plain = Rope(rope.theta, rope.scaling)
    if not any(slides) and all(rotated) and rope == plain:
        return ()
    slides, rotated = slides or [False] * count, rotated or [True] * count
    width = integer(values, "sliding_window") if any(slides) else None
    kinds = {
        (slide, turn): LayerKind(
            width if slide else None, (local if slide else rope) if turn else None
        )
        for slide in (False, True)
        for turn in (False, True)
    }
    return tuple(kinds[pair] for pair in zip(slides, rotated, strict=True))
