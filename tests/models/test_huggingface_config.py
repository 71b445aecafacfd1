"""config.json to a shape and back."""

import dataclasses
import json

import hypothesis.strategies as st
import pytest
import tiny_checkpoints
from hypothesis import assume, given, settings

from grpojax.models import (
    config_from_huggingface,
    config_to_huggingface,
    Llama3Scaling,
    TransformerConfig,
)


LLAMA3 = dict(rope_type="llama3", **tiny_checkpoints.LLAMA3)

sizes = st.integers(1, 10**6)
positive = st.floats(1e-9, 1e9)
scalings = st.builds(
    Llama3Scaling,
    factor=positive,
    low_freq_factor=st.floats(1e-9, 1.0),
    high_freq_factor=st.floats(2.0, 1e9),
    original_max_position_embeddings=sizes,
)


@st.composite
def shapes(draw):
    kv_heads = draw(st.integers(1, 8))
    return dict(
        vocab_size=draw(sizes),
        hidden_size=draw(sizes),
        intermediate_size=draw(sizes),
        num_layers=draw(sizes),
        num_heads=kv_heads * draw(st.integers(1, 8)),
        num_kv_heads=kv_heads,
        head_dim=2 * draw(sizes),
        rope_theta=draw(positive),
        rope_scaling=draw(st.none() | scalings),
        norm_eps=draw(positive),
        qkv_bias=draw(st.booleans()),
        qk_norm=draw(st.booleans()),
        tied=draw(st.booleans()),
        max_positions=draw(sizes),
    )


@settings(deadline=None)
@given(shape=shapes())
def test_there_and_back(shape):
    config = TransformerConfig(**shape)
    assume(not (config.qkv_bias and config.qk_norm))
    written = json.loads(json.dumps(config_to_huggingface(config)))
    assert config_from_huggingface(written) == config


def test_both_forms_of_the_file_are_one_config(case):
    forms = [
        config_from_huggingface(tiny_checkpoints.huggingface_config(*case, form=form))
        for form in "45"
    ]
    assert forms[0] == forms[1]
    family, tied = case
    theta = tiny_checkpoints.FAMILIES[family]["rope_theta"]
    scaling = Llama3Scaling(4.0, 1.0, 4.0, 32) if family == "llama3" else None
    assert forms[0] == TransformerConfig(
        vocab_size=19,
        hidden_size=16,
        intermediate_size=20,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=6,
        rope_theta=theta,
        rope_scaling=scaling,
        norm_eps=1e-5,
        qkv_bias=family == "qwen2",
        qk_norm=family == "qwen3",
        tied=tied,
        max_positions=64,
    )


@pytest.mark.parametrize("key", ["head_dim", "num_key_value_heads", "rope_theta"])
@pytest.mark.parametrize("how", ["absent", "null"])
def test_what_a_file_may_leave_out(key, how):
    values = tiny_checkpoints.huggingface_config("llama", False)
    if how == "null":
        values[key] = None
    else:
        del values[key]
    config = config_from_huggingface(values)
    assert config.head_dim == (4 if key == "head_dim" else 6)
    assert config.num_kv_heads == (4 if key == "num_key_value_heads" else 2)
    assert config.rope_theta == (10_000.0 if key == "rope_theta" else 100.0)


@pytest.mark.parametrize(
    "family, harmless",
    [
        ("llama", dict(rope_scaling={"type": "default"}, attention_bias=False)),
        ("llama", dict(mlp_bias=None, attention_dropout=0.1, use_cache=True)),
        ("llama", dict(partial_rotary_factor=1.0, hidden_act="swish")),
        ("mistral", dict(attention_bias=True, mlp_bias=True)),
        ("qwen2", dict(use_sliding_window=False, sliding_window=8)),
        ("qwen2", dict(use_sliding_window=True, sliding_window=8)),
        ("qwen2", dict(attention_bias=True)),
        ("llama", dict(is_causal=True)),
        ("qwen3", dict(layer_types=["full_attention"] * 2, max_window_layers=1)),
    ],
)
def test_what_changes_nothing_is_accepted(family, harmless):
    values = tiny_checkpoints.huggingface_config(family, False)
    assert config_from_huggingface(values | harmless) == config_from_huggingface(values)


@pytest.mark.parametrize(
    "family, change, message",
    [
        ("llama", dict(hidden_act="relu"), "`hidden_act` = 'relu'"),
        ("llama", dict(attention_bias="yes"), "`attention_bias` = 'yes'"),
        ("llama", dict(is_causal=False), "`is_causal` = False"),
        ("llama", dict(is_causal=None), "`is_causal` = None"),
        ("llama", dict(partial_rotary_factor=0.5), "`partial_rotary_factor` = 0.5"),
        ("llama", dict(quantization_config={"bits": 4}), "`quantization_config` = {"),
        ("llama", dict(use_sliding_window=True), "`use_sliding_window` = True"),
        ("mistral", dict(sliding_window=0), "`sliding_window` .* Received 0"),
        (
            "qwen3",
            dict(layer_types=["full_attention", "sliding_attention"]),
            r"`layer_types` = \['full_attention', 'sliding_attention'\]",
        ),
        (
            "llama",
            dict(rope_scaling={"type": "proportional", "factor": 2.0}),
            r"`rope_scaling.rope_type` = 'proportional'",
        ),
        (
            "llama",
            dict(rope_parameters={"rope_type": "yarn", "factor": 2.0, "base": 3}),
            r"`rope_parameters.base` = 3",
        ),
        (
            "qwen2",
            dict(rope_scaling={"rope_type": "default", "mrope_section": [1, 2]}),
            r"`rope_scaling.mrope_section` = \[1, 2\]",
        ),
        (
            "llama",
            dict(rope_scaling={**LLAMA3, "type": "linear"}),
            "`rope_scaling.type` = 'linear'",
        ),
        (
            "llama",
            dict(rope_parameters={"full_attention": {"rope_theta": 1.0}}),
            "`rope_parameters.full_attention` = ",
        ),
        (
            "llama",
            dict(rope_scaling={"rope_type": "llama3", "factor": 8.0}),
            "`low_freq_factor` in config.json must be a positive, finite number. "
            "Received None",
        ),
        ("llama", dict(rope_scaling="linear"), "`rope_scaling` = 'linear'"),
        ("llama", dict(hidden_size=None), "`hidden_size` .* integer .* Received None"),
        ("llama", dict(vocab_size="7"), "`vocab_size` .* integer .* Received '7'"),
        ("llama", dict(rms_norm_eps=None), "`rms_norm_eps` .* number. Received None"),
        (
            "llama",
            dict(rope_scaling={"type": "longrope", "short_factor": [1.0] * 2}),
            "`long_factor` = None",
        ),
        (
            "llama",
            dict(
                rope_scaling={
                    "type": "longrope",
                    "short_factor": [1.0] * 2,
                    "long_factor": [1.0] * 2,
                }
            ),
            "`rope_scaling.short_factor` .* 3 numbers",
        ),
        (
            "llama",
            dict(num_attention_heads=0),
            "`num_attention_heads` .* positive integer of 32 bits. Received 0",
        ),
        ("llama", dict(model_type="gemma3"), "llama, mistral, .*'gemma3'"),
        ("llama", dict(head_dim=None, hidden_size=17), "`head_dim`"),
    ],
)
def test_what_changes_the_arithmetic_is_refused(family, change, message):
    values = tiny_checkpoints.huggingface_config(family, False)
    with pytest.raises(ValueError, match=message):
        config_from_huggingface(values | change)


def test_a_silent_mistral_has_a_window():
    values = tiny_checkpoints.huggingface_config("mistral", False)
    assert not config_from_huggingface(values).has_windows
    del values["sliding_window"]
    config = config_from_huggingface(values)
    assert {kind.window for kind in config.layers} == {4096}
    assert config_to_huggingface(config)["model_type"] == "mistral"


@pytest.mark.parametrize(
    "family, key, field, value",
    [
        ("llama", "rms_norm_eps", "norm_eps", 1e-6),
        ("qwen3", "rms_norm_eps", "norm_eps", 1e-6),
        ("llama", "max_position_embeddings", "max_positions", 2048),
        ("qwen2", "max_position_embeddings", "max_positions", 32_768),
        ("qwen3", "head_dim", "head_dim", 128),
    ],
)
def test_what_is_left_out_is_the_familys_default(family, key, field, value):
    values = tiny_checkpoints.huggingface_config(family, False)
    del values[key]
    assert getattr(config_from_huggingface(values), field) == value


def test_a_shape_that_no_family_has_is_refused():
    values = tiny_checkpoints.huggingface_config("llama", False)
    config = config_from_huggingface(values)
    changed = config.switches._replace(norms="both")
    with pytest.raises(ValueError, match="'llama' does not express"):
        config_to_huggingface(dataclasses.replace(config, block=changed))


def test_the_family_follows_from_the_shape(case):
    values = tiny_checkpoints.huggingface_config(*case)
    written = config_to_huggingface(config_from_huggingface(values))
    # A Mistral without a window is a Llama.
    expected = {"llama3": "llama", "mistral": "llama"}.get(case[0], case[0])
    assert written["model_type"] == expected
    assert written["architectures"] == [
        {"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3"}[expected] + "ForCausalLM"
    ]
    assert written["tie_word_embeddings"] is case[1]


def test_what_no_family_has_is_refused():
    values = tiny_checkpoints.huggingface_config("qwen2", False)
    config = dataclasses.replace(config_from_huggingface(values), qk_norm=True)
    with pytest.raises(ValueError, match="both qk_norm and qkv_bias"):
        config_to_huggingface(config)
