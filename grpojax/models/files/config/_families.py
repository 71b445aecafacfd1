"""The architectures of `transformers` that are implemented.

A family is an entry here. Its tensors are named by `_tensors`.
"""

import dataclasses
from collections.abc import Callable, Mapping

from ...transformer import Block
from ._values import integer, refuse, switch


Values = Mapping[str, object]


FULL, SLIDING = "full_attention", "sliding_attention"
"""The kinds of layers in `layer_types`."""

SHAPES = ("llama", "mistral", "qwen2", "qwen3")
"""The families that a configuration's shape is enough to tell."""


def _none(values: Values, count: int) -> list[bool]:
    del values, count
    return []


def _all_windows(values: Values, count: int) -> list[bool]:
    return [True] * count if values.get("sliding_window") is not None else []


def _may_slide(values: Values) -> bool:
    window = values.get("sliding_window")
    return switch(values, "use_sliding_window") and window is not None


def _last_windows(values: Values, count: int) -> list[bool]:
    """Qwen's upper layers."""
    first = values.get("max_window_layers")
    if not isinstance(first, int) or isinstance(first, bool):
        refuse("max_window_layers", first, "an integer")
    return [layer >= first for layer in range(count)] if _may_slide(values) else []


def _windows_between(key: str, every: int) -> Callable[[Values, int], list[bool]]:
    """All layers but each `every`-th one, or as a key says."""

    def windows(values: Values, count: int) -> list[bool]:
        period = integer(values, key, every)
        return [layer % period != 0 for layer in range(1, count + 1)]

    return windows


def _windows_without_rope(values: Values, count: int) -> list[bool]:
    if not _may_slide(values):
        return []
    return [not is_rotated for is_rotated in _some_ropes(values, count)]


def _some_ropes(values: Values, count: int) -> list[bool]:
    """SmolLM3's layers with a rotary embedding."""
    flags = values.get("no_rope_layers")  # 1 is a layer with one.
    if flags is None:
        return _windows_between("no_rope_layer_interval", 4)(values, count)
    if not isinstance(flags, list) or len(flags) < count or set(flags) - {0, 1}:
        refuse("no_rope_layers", flags, "a list of 0 and 1, one for each layer")
    return [bool(flag) for flag in flags[:count]]


@dataclasses.dataclass(frozen=True)
class Family:
    """What sets the models of one `model_type` apart.

    **Fields:**

    - `architecture`: the class of `transformers`.
    - `defaults`: values of keys that a file may leave out.
    - `block`: the switches that no key of the file changes.
    - `qkv_bias`, `qk_norm`: as in `TransformerConfig`.
    - `switches`: keys that turn on fields of the configuration, by their paths.
    - `numbers`: keys that are fields of the configuration, by their path.
    - `optional`: those of `numbers` that may be null.
    - `windows`: which layers have a window, unless `layer_types` says it; an empty list
        for none.
    - `ropes`: which layers have a rotary embedding; an empty list for all.
    - `has_types`: whether `layer_types` is read.
    - `local_theta`: of layers with windows, which have a rotary embedding of their own;
        `None` where all layers share one.
    - `rope_kinds`: the kinds of scaling by their names in the file; all by default.
    - `grows_queries`: the rope's values say how queries grow with their position.
    - `activation`: the key of the MLP's activation.
    - `scales_by_size`: embeddings are multiplied by the root of their size, and scores
        divided by that of `query_pre_attn_scalar` (Gemma).
    - `reads`: keys that are read, and refused by other families.
    - `refuses`: keys that must be absent or null.
    - `is_fused`: query, key and value are one tensor, and gate and up another (Phi-3).
    """

    architecture: str
    defaults: Values = dataclasses.field(default_factory=dict)
    block: Block = Block()
    qkv_bias: bool = False
    qk_norm: bool = False
    switches: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    numbers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    optional: tuple[str, ...] = ()
    windows: Callable[[Values, int], list[bool]] = _none
    ropes: Callable[[Values, int], list[bool]] = _none
    has_types: bool = False
    local_theta: float | None = None
    rope_kinds: Mapping[str, str] | None = None
    grows_queries: bool = False
    activation: str = "hidden_act"
    scales_by_size: bool = False
    reads: tuple[str, ...] = ()
    refuses: tuple[str, ...] = ()
    is_fused: bool = False


_ATTENTION_BIAS = {"attention_bias": ("qkv_bias", "block.output_bias")}
_MLP_BIAS = {"mlp_bias": ("block.mlp_bias",)}
_BIASES = _ATTENTION_BIAS | _MLP_BIAS
_MISTRAL = dict(sliding_window=4096, num_key_value_heads=8, rms_norm_eps=1e-6)
_MISTRAL |= dict(max_position_embeddings=131_072)
_QWEN = dict(use_sliding_window=False, sliding_window=4096, max_window_layers=28)
_QWEN |= dict(max_position_embeddings=32_768, num_key_value_heads=32)
_QWEN |= dict(rms_norm_eps=1e-6)
_OLMO = dict(rms_norm_eps=1e-5, max_position_embeddings=2048)
_GEMMA = dict(
    head_dim=256,
    num_key_value_heads=4,
    hidden_activation="gelu_pytorch_tanh",
    rms_norm_eps=1e-6,
    sliding_window=4096,
    tie_word_embeddings=True,
    query_pre_attn_scalar=256,
)
_GEMMA_BLOCK = Block(norms="both", norm_offset=1.0)
_OLMO_BLOCK = Block(norms="after", qk_norm_over_heads=True)

FAMILIES = {
    "llama": Family(
        "LlamaForCausalLM",
        dict(rms_norm_eps=1e-6, max_position_embeddings=2048),
        switches=_BIASES,
    ),
    "mistral": Family("MistralForCausalLM", _MISTRAL, windows=_all_windows),
    "qwen2": Family(
        "Qwen2ForCausalLM",
        _QWEN,
        qkv_bias=True,
        windows=_last_windows,
        has_types=True,
        reads=("use_sliding_window",),
    ),
    "qwen3": Family(
        "Qwen3ForCausalLM",
        _QWEN | dict(head_dim=128),
        qk_norm=True,
        switches=_ATTENTION_BIAS,
        windows=_last_windows,
        has_types=True,
        reads=("use_sliding_window",),
    ),
    "gemma2": Family(
        "Gemma2ForCausalLM",
        _GEMMA
        | dict(
            max_position_embeddings=8192,
            final_logit_softcapping=30.0,
            attn_logit_softcapping=50.0,
        ),
        block=_GEMMA_BLOCK,
        switches=_ATTENTION_BIAS,
        numbers={
            "final_logit_softcapping": "logits_cap",
            "attn_logit_softcapping": "block.attention_cap",
        },
        optional=("final_logit_softcapping", "attn_logit_softcapping"),
        windows=_windows_between("", 2),
        has_types=True,
        activation="hidden_activation",
        scales_by_size=True,
    ),
    "gemma3_text": Family(
        "Gemma3ForCausalLM",
        _GEMMA | dict(max_position_embeddings=131_072, rope_theta=1e6),
        block=_GEMMA_BLOCK,
        qk_norm=True,
        switches=_ATTENTION_BIAS,
        numbers={"final_logit_softcapping": "logits_cap"},
        optional=("final_logit_softcapping",),
        windows=_windows_between("sliding_window_pattern", 6),
        has_types=True,
        local_theta=10_000.0,
        activation="hidden_activation",
        scales_by_size=True,
        refuses=("attn_logit_softcapping",),
    ),
    "olmo2": Family(
        "Olmo2ForCausalLM",
        _OLMO,
        block=_OLMO_BLOCK,
        qk_norm=True,
        switches=_ATTENTION_BIAS,
    ),
    "olmo3": Family(
        "Olmo3ForCausalLM",
        _OLMO | dict(sliding_window=4096, rope_theta=500_000.0),
        block=_OLMO_BLOCK,
        qk_norm=True,
        switches=_ATTENTION_BIAS,
        windows=_windows_between("", 4),
        has_types=True,
        local_theta=500_000.0,
    ),
    "phi3": Family(
        "Phi3ForCausalLM",
        dict(
            rms_norm_eps=1e-5,
            max_position_embeddings=4096,
            original_max_position_embeddings=4096,
        ),
        windows=_all_windows,
        rope_kinds={
            "default": "default",
            **dict.fromkeys(("longrope", "su", "yarn"), "longrope"),
        },
        reads=("partial_rotary_factor", "original_max_position_embeddings"),
        is_fused=True,
    ),
    "smollm3": Family(
        "SmolLM3ForCausalLM",
        dict(
            rms_norm_eps=1e-6,
            max_position_embeddings=32_768,
            num_key_value_heads=4,
            tie_word_embeddings=True,
            rope_theta=2e6,
            use_sliding_window=False,
        ),
        switches=_BIASES,
        windows=_windows_without_rope,
        ropes=_some_ropes,
        has_types=True,
        reads=("use_sliding_window",),
    ),
    "granite": Family(
        "GraniteForCausalLM",
        dict(
            rms_norm_eps=1e-6,
            max_position_embeddings=2048,
            embedding_multiplier=1.0,
            logits_scaling=1.0,
            residual_multiplier=1.0,
            attention_multiplier=1.0,
        ),
        switches=_BIASES,
        numbers={
            "embedding_multiplier": "embedding_scale",
            "logits_scaling": "logits_divisor",
            "residual_multiplier": "block.residual_scale",
            "attention_multiplier": "block.attention_scale",
        },
    ),
    "seed_oss": Family(
        "SeedOssForCausalLM",
        dict(
            rms_norm_eps=1e-6,
            max_position_embeddings=524_288,
            num_key_value_heads=8,
            head_dim=128,
            attention_bias=True,
        ),
        switches={
            "attention_bias": ("qkv_bias",),
            "attention_out_bias": ("block.output_bias",),
            **_MLP_BIAS,
        },
    ),
    "ministral": Family(
        "MinistralForCausalLM", _MISTRAL, windows=_all_windows, has_types=True
    ),
    "ministral3": Family(
        "Ministral3ForCausalLM",
        dict(
            rms_norm_eps=1e-5,
            max_position_embeddings=262_144,
            num_key_value_heads=8,
            head_dim=128,
        ),
        windows=_all_windows,
        grows_queries=True,
    ),
}
"""Every family, by its `model_type`."""
