"""The architectures of `transformers` that are implemented.

A family is an entry here. Its tensors are named by `_tensors`.
"""

from ...transformer import Block
from ._family import (
    all_if_sliding,
    all_windows,
    Family,
    first_windows,
    gpt_experts,
    last_windows,
    mixtral_experts,
    olmo_experts,
    qwen2_experts,
    qwen_experts,
    some_ropes,
    windows_between,
    windows_without_rope,
)


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
    "mistral": Family("MistralForCausalLM", _MISTRAL, windows=all_windows),
    "qwen2": Family(
        "Qwen2ForCausalLM",
        _QWEN,
        qkv_bias=True,
        windows=last_windows,
        has_types=True,
        reads=("use_sliding_window",),
    ),
    "qwen3": Family(
        "Qwen3ForCausalLM",
        _QWEN | dict(head_dim=128),
        qk_norm=True,
        switches=_ATTENTION_BIAS,
        windows=last_windows,
        has_types=True,
        reads=("use_sliding_window",),
    ),
    "qwen3_moe": Family(
        "Qwen3MoeForCausalLM",
        dict(
            use_sliding_window=False,
            sliding_window=4096,
            max_position_embeddings=32_768,
            num_key_value_heads=4,
            rms_norm_eps=1e-6,
            moe_intermediate_size=768,
            num_experts_per_tok=8,
            norm_topk_prob=False,
        ),
        qk_norm=True,
        switches=_ATTENTION_BIAS,
        windows=all_if_sliding,
        reads=("use_sliding_window",),
        experts=qwen_experts,
    ),
    "qwen2_moe": Family(
        "Qwen2MoeForCausalLM",
        dict(
            use_sliding_window=False,
            sliding_window=4096,
            max_window_layers=28,
            max_position_embeddings=32_768,
            num_key_value_heads=16,
            rms_norm_eps=1e-6,
            num_experts=60,
            moe_intermediate_size=1408,
            shared_expert_intermediate_size=5632,
            num_experts_per_tok=4,
            norm_topk_prob=False,
            qkv_bias=True,
        ),
        switches={"qkv_bias": ("qkv_bias",)},
        windows=first_windows,
        has_types=True,
        reads=("use_sliding_window",),
        experts=qwen2_experts,
    ),
    "olmoe": Family(
        "OlmoeForCausalLM",
        dict(
            rms_norm_eps=1e-5,
            max_position_embeddings=4096,
            num_experts=64,
            num_experts_per_tok=8,
            norm_topk_prob=False,
        ),
        block=Block(qk_norm_over_heads=True),
        qk_norm=True,
        switches=_ATTENTION_BIAS,
        refuses=("clip_qkv",),
        experts=olmo_experts,
    ),
    "gpt_oss": Family(
        "GptOssForCausalLM",
        dict(
            rms_norm_eps=1e-5,
            max_position_embeddings=131_072,
            num_local_experts=128,
            num_experts_per_tok=4,
            num_key_value_heads=8,
            head_dim=64,
            sliding_window=128,
            attention_bias=True,
            swiglu_alpha=1.702,
            swiglu_limit=7.0,
            rope_theta=150_000.0,
            rope_parameters=dict(
                rope_type="yarn",
                factor=32.0,
                beta_fast=32.0,
                beta_slow=1.0,
                truncate=False,
                original_max_position_embeddings=4096,
            ),
        ),
        block=Block(attention_sinks=True),
        switches=_ATTENTION_BIAS,
        windows=windows_between("", 2),
        has_types=True,
        reads=("quantization_config",),
        experts=gpt_experts,
        is_packed=True,
    ),
    "mixtral": Family(
        "MixtralForCausalLM",
        dict(
            max_position_embeddings=131_072,
            num_key_value_heads=8,
            rms_norm_eps=1e-5,
            rope_theta=1e6,
            num_experts_per_tok=2,
        ),
        windows=all_windows,
        experts=mixtral_experts,
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
        windows=windows_between("", 2),
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
        windows=windows_between("sliding_window_pattern", 6),
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
        windows=windows_between("", 4),
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
        windows=all_windows,
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
        windows=windows_without_rope,
        ropes=some_ropes,
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
        "MinistralForCausalLM", _MISTRAL, windows=all_windows, has_types=True
    ),
    "ministral3": Family(
        "Ministral3ForCausalLM",
        dict(
            rms_norm_eps=1e-5,
            max_position_embeddings=262_144,
            num_key_value_heads=8,
            head_dim=128,
        ),
        windows=all_windows,
        grows_queries=True,
    ),
}
"""Every family, by its `model_type`."""
