"""Tiny random models of every family: a family joins by a line of `SETTINGS`.

Weights are drawn from their names, so that nobody stores them. What `transformers`
computes is in `families.npz`, which this module writes where there is torch:

    python -m tests.models.families
"""

import json
import zlib
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
from safetensors.numpy import save_file

from grpojax import models
from grpojax.models.files._tensors import stored_shapes


GOLDEN = Path(__file__).with_name("families.npz")
TOKENS = np.random.default_rng(0).integers(0, 61, 40)
LAST = 3  # Positions of the golden file: every window ends before them.

_SIZES = dict(
    vocab_size=61,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    max_position_embeddings=128,
    rms_norm_eps=1e-5,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)
_ODD = dict(hidden_size=21, intermediate_size=17, num_attention_heads=3)
_ODD |= dict(num_key_value_heads=1, head_dim=10, num_hidden_layers=3)
_SEVEN = dict(hidden_size=28, num_attention_heads=7, num_key_value_heads=7, head_dim=4)
_WIDE = dict(num_key_value_heads=4, head_dim=22, num_hidden_layers=2)
_ONE = dict(num_hidden_layers=1, num_key_value_heads=1, head_dim=2)
_DEEP = dict(num_hidden_layers=9, num_key_value_heads=4)
_BIAS = dict(attention_bias=True)
_BIASES = dict(attention_bias=True, mlp_bias=True)
_YARN = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=16)
_LINEAR = dict(rope_type="linear", factor=3.0)
_DYNAMIC = dict(rope_type="dynamic", factor=2.0)
_LLAMA3 = dict(
    rope_type="llama3",
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=32,
)
_EXPERTS = dict(num_experts=8, num_experts_per_tok=2, moe_intermediate_size=12)
_SHARED = _EXPERTS | dict(shared_expert_intermediate_size=20)
_GPT = dict(num_local_experts=4, num_experts_per_tok=2)
_MSCALE = dict(mscale=1.0, mscale_all_dim=0.5, beta_fast=16.0, beta_slow=2.0)
_TYPES = ["sliding_attention", "full_attention", "full_attention", "sliding_attention"]
_FULL = ["full_attention"] * 4


def _long(pairs):
    short = [1.0 + 0.1 * i for i in range(pairs)]
    return dict(type="longrope", short_factor=short, long_factor=[4.0] * pairs)


def _flat(theta=300.0):
    """Settings that any family with one rope has."""
    return [
        dict(rope_theta=theta),
        _ODD | dict(rope_scaling=_YARN),
        _SEVEN | dict(rope_scaling=_LINEAR, tie_word_embeddings=True),
        _WIDE | dict(rope_scaling=_LLAMA3),
        _ONE | dict(rope_scaling=_DYNAMIC, head_dim=6),
        _DEEP | dict(rope_scaling=_YARN | _MSCALE),
    ]


def _each(settings, *changes):
    """The settings, each with changes of its own."""
    return [one | more for one, more in zip(settings, changes, strict=True)]


SETTINGS = {
    "llama": _each(_flat(), _BIASES, {}, _BIAS, dict(hidden_act="gelu"), {}, {}),
    "mistral": _each(
        _flat(),
        *(dict(sliding_window=window) for window in (7, 1, 20, None, 39, 5)),
    ),
    "qwen2": _each(
        _flat(),
        dict(use_sliding_window=True, sliding_window=6, max_window_layers=2),
        dict(use_sliding_window=True, sliding_window=3, max_window_layers=1),
        dict(use_sliding_window=True, sliding_window=9, max_window_layers=4),
        dict(attention_bias=True),
        dict(use_sliding_window=True, sliding_window=4, max_window_layers=0),
        dict(use_sliding_window=False, sliding_window=4),
    ),
    "qwen3": _each(
        _flat(),
        dict(use_sliding_window=True, sliding_window=6, layer_types=_TYPES),
        _BIAS,
        dict(use_sliding_window=True, sliding_window=9, max_window_layers=3),
        {},
        _BIAS,
        dict(use_sliding_window=True, sliding_window=2, max_window_layers=1),
    ),
    "qwen3_moe": _each(
        _flat(),
        _EXPERTS | dict(norm_topk_prob=True),
        _EXPERTS | dict(num_experts=2, num_experts_per_tok=1) | _BIAS,
        _EXPERTS | dict(num_experts=16, num_experts_per_tok=8, norm_topk_prob=True),
        _EXPERTS | dict(num_experts=5, use_sliding_window=True, sliding_window=7),
        _EXPERTS | dict(num_experts=3, num_experts_per_tok=3, moe_intermediate_size=1),
        _EXPERTS | dict(decoder_sparse_step=2, mlp_only_layers=[3, 4, 11]) | _BIAS,
    ),
    "qwen2_moe": _each(
        _flat(),
        _SHARED | dict(norm_topk_prob=True, qkv_bias=False),
        _EXPERTS | dict(num_experts=2, shared_expert_intermediate_size=19),
        _SHARED | dict(num_experts=16, num_experts_per_tok=8, norm_topk_prob=True),
        _SHARED | dict(use_sliding_window=True, sliding_window=7, max_window_layers=1),
        _SHARED | dict(num_experts=3, shared_expert_intermediate_size=1),
        _SHARED | dict(decoder_sparse_step=2, mlp_only_layers=[3, 4, 11]),
    ),
    "olmoe": [
        _EXPERTS | dict(norm_topk_prob=True),
        dict(hidden_size=30, num_attention_heads=3, num_key_value_heads=1, head_dim=10)
        | dict(num_experts=2, num_experts_per_tok=1, rope_scaling=_YARN),
        _SEVEN | _BIAS | dict(num_experts=16, num_experts_per_tok=8),
        _EXPERTS | dict(num_hidden_layers=1, intermediate_size=1, num_experts=5),
        _EXPERTS | dict(num_experts=3, rope_scaling=_LINEAR, hidden_act="gelu"),
        _DEEP | _EXPERTS | dict(tie_word_embeddings=True, rope_scaling=_LLAMA3),
    ],
    "gpt_oss": [
        _GPT | dict(sliding_window=7, rope_theta=300.0),
        _ODD
        | _GPT
        | dict(sliding_window=3, num_local_experts=2, swiglu_limit=0.5)
        | dict(num_experts_per_tok=1, attention_bias=False, rope_scaling=_YARN),
        _SEVEN | _GPT | dict(sliding_window=9, layer_types=_TYPES, swiglu_alpha=1.1),
        _WIDE
        | _GPT
        | dict(sliding_window=1, num_local_experts=16)
        | dict(num_experts_per_tok=8, tie_word_embeddings=True),
        _ONE | _GPT | dict(sliding_window=5, rope_parameters=dict(rope_type="default")),
        _DEEP | _GPT | dict(num_local_experts=5, rope_scaling=_LINEAR),
    ],
    "mixtral": _each(
        _flat(),
        dict(num_local_experts=8, sliding_window=7),
        dict(num_local_experts=2, num_experts_per_tok=1),
        dict(num_local_experts=16, num_experts_per_tok=8),
        dict(num_local_experts=3, num_experts_per_tok=2, hidden_act="gelu"),
        dict(num_local_experts=4, num_experts_per_tok=4),
        dict(num_local_experts=5, num_experts_per_tok=2),
    ),
    "gemma2": [
        dict(sliding_window=7, query_pre_attn_scalar=20, attn_logit_softcapping=2.0),
        _ODD | _BIAS | dict(sliding_window=3, final_logit_softcapping=None),
        _SEVEN | dict(sliding_window=9, attn_logit_softcapping=None),
        _WIDE | dict(sliding_window=1, rope_scaling=_YARN, query_pre_attn_scalar=3),
        _ONE | dict(sliding_window=5, rope_scaling=_LINEAR),
        dict(sliding_window=5, layer_types=_TYPES, tie_word_embeddings=False),
    ],
    "gemma3_text": [
        dict(sliding_window=7, sliding_window_pattern=2, query_pre_attn_scalar=20),
        _ODD | _BIAS | dict(sliding_window=3, final_logit_softcapping=3.0),
        _SEVEN | dict(sliding_window=9, rope_scaling=_LINEAR, layer_types=_TYPES),
        _WIDE | dict(sliding_window=1, rope_theta=500.0, rope_local_base_freq=30.0),
        _ONE | dict(sliding_window=5, query_pre_attn_scalar=3),
        _DEEP | dict(sliding_window=5, tie_word_embeddings=False),
        dict(layer_types=_FULL, rope_scaling=_YARN),
    ],
    "olmo2": _each(_flat(), _BIAS, {}, {}, {}, {}, {}),
    "olmo3": [
        dict(sliding_window=7, rope_scaling=_YARN),
        _ODD | _BIAS | dict(sliding_window=3),
        _SEVEN | dict(sliding_window=9, layer_types=_TYPES),
        _WIDE | dict(sliding_window=1, tie_word_embeddings=True),
        _ONE | dict(sliding_window=5),
        _DEEP | dict(sliding_window=5, rope_scaling=_LINEAR),
    ],
    "phi3": [
        dict(sliding_window=7, rope_theta=300.0),
        dict(hidden_size=30, num_attention_heads=3, num_key_value_heads=1, head_dim=10)
        | dict(partial_rotary_factor=0.6, sliding_window=None),
        _SEVEN | dict(rope_scaling=_long(2), original_max_position_embeddings=64),
        dict(partial_rotary_factor=0.75, original_max_position_embeddings=41)
        | dict(rope_scaling=_long(3) | dict(attention_factor=1.5)),
        dict(num_hidden_layers=1, num_key_value_heads=1, sliding_window=39),
        _DEEP | dict(tie_word_embeddings=True),
    ],
    "smollm3": _each(
        _flat(),
        dict(no_rope_layer_interval=2),
        dict(no_rope_layers=[0, 1, 1]) | _BIASES,
        dict(use_sliding_window=True, sliding_window=5, tie_word_embeddings=False),
        dict(no_rope_layers=[0, 0]),
        dict(no_rope_layers=[1]),
        dict(use_sliding_window=True, sliding_window=9, no_rope_layer_interval=3),
    ),
    "granite": _each(
        _flat(),
        dict(embedding_multiplier=12.0, logits_scaling=7.0, residual_multiplier=0.22)
        | dict(attention_multiplier=0.13),
        _BIASES,
        dict(residual_multiplier=0.5),
        dict(attention_multiplier=0.3),
        dict(embedding_multiplier=3.0),
        dict(logits_scaling=3.0),
    ),
    "seed_oss": _each(
        _flat(),
        {},
        dict(attention_bias=False, attention_out_bias=True),
        dict(attention_out_bias=True),
        dict(mlp_bias=True),
        dict(attention_bias=False),
        {},
    ),
    "ministral": _each(
        _flat(),
        dict(sliding_window=7, layer_types=_TYPES),
        *(dict(sliding_window=window) for window in (1, 20, 2, 39, 5)),
    ),
    "ministral3": [
        change | dict(rope_parameters=rope | dict(llama_4_scaling_beta=beta))
        for change, rope, beta in (
            (dict(sliding_window=7), _YARN | dict(rope_theta=90.0), 0.1),
            (_ODD, _YARN | _MSCALE, 0.3),
            (_SEVEN, _YARN | dict(attention_factor=1.3), 0.1),
            (_WIDE, _YARN | dict(truncate=False), 0.1),
            (_ONE | dict(sliding_window=3), _YARN, 2.0),
            (_DEEP, _LLAMA3, 0.2),
        )
    ],
}
CASES = [(name, i) for name, every in SETTINGS.items() for i in range(len(every))]


def config_of(family, index):
    """A config.json."""
    return _SIZES | {"model_type": family} | SETTINGS[family][index]


def write(directory, values):
    """A model directory of a config.json, with random weights."""
    config = models.config_from_huggingface(values)
    abstract = eqx.filter_eval_shape(models.Transformer, config, key=jax.random.key(0))
    shapes = stored_shapes(abstract)
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps(values))
    offset = config.switches.norm_offset
    tensors = {name: _draw(name, shape, offset) for name, shape in shapes.items()}
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    return directory


def _draw(name, shape, offset):
    draw = np.random.default_rng(zlib.crc32(name.encode()))
    x = draw.normal(size=shape)
    if name.endswith("norm.weight"):
        return (1 - offset + 0.3 * x).astype(np.float32)
    return (x * (0.5 if len(shape) == 1 else shape[-1] ** -0.5)).astype(np.float32)


def load(directory, family, index):
    return models.load(write(directory / f"{family}-{index}", config_of(family, index)))


def peer_logits(directory):
    """What `transformers` computes for a directory, float32."""
    import torch
    import transformers

    model, loading = transformers.AutoModelForCausalLM.from_pretrained(
        directory,
        attn_implementation="eager",
        experts_implementation="eager",
        dtype=torch.float32,
        output_loading_info=True,
    )
    assert not any(loading.values()), loading
    with torch.no_grad():
        return model.eval()(torch.tensor(TOKENS)[None]).logits[0].numpy()


if __name__ == "__main__":
    import tempfile

    golden = {}
    with tempfile.TemporaryDirectory() as folder:
        for family, index in CASES:
            at = write(Path(folder) / f"{family}-{index}", config_of(family, index))
            golden[f"{family}-{index}"] = peer_logits(at)[-LAST:]
    np.savez_compressed(GOLDEN, **golden)
