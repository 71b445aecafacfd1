"""Adapters in PEFT's format, against NumPy: names, shapes, scales and refusals."""

import json
import math

import chex
import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny_checkpoints import (
    huggingface_config,
    random_tensors,
    reference_logits,
    write_directory,
)

from grpojax import models, policy
from tests.helpers import learned


TOKENS = np.random.default_rng(1).integers(0, 19, 9)
MODULES = {
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "output": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
CONFIG = {
    "alpha_pattern": {},
    "auto_mapping": None,
    "base_model_name_or_path": "someone/something",
    "bias": "none",
    "corda_config": None,
    "eva_config": None,
    "exclude_modules": None,
    "fan_in_fan_out": False,
    "inference_mode": True,
    "init_lora_weights": True,
    "layer_replication": None,
    "layers_pattern": None,
    "layers_to_transform": None,
    "loftq_config": {},
    "lora_alpha": 6,
    "lora_bias": False,
    "lora_dropout": 0.05,
    "megatron_config": None,
    "megatron_core": "megatron.core",
    "modules_to_save": None,
    "peft_type": "LORA",
    "qalora_group_size": 16,
    "r": 3,
    "rank_pattern": {},
    "revision": None,
    "target_modules": ["q_proj", "down_proj"],
    "target_parameters": None,
    "task_type": "CAUSAL_LM",
    "trainable_token_indices": None,
    "use_dora": False,
    "use_qalora": False,
    "use_rslora": False,
}
"""A file as PEFT writes it."""


@pytest.fixture(scope="module")
def weights():
    return random_tensors("qwen2", False)


@pytest.fixture(scope="module")
def base(weights, tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    return models.load(
        write_directory(folder, huggingface_config("qwen2", False), weights)
    )


def random_adapter(weights, fields=("query", "down"), rank=3):
    draw = np.random.default_rng(3)
    adapter = {}
    for layer in range(2):
        for field in fields:
            module = f"model.layers.{layer}.{MODULES[field]}"
            outputs, inputs = weights[f"{module}.weight"].shape
            for letter, shape in (("A", (rank, inputs)), ("B", (outputs, rank))):
                name = f"base_model.model.{module}.lora_{letter}.weight"
                adapter[name] = draw.normal(size=shape).astype(np.float32) / 3
    return adapter


def write_adapter(path, adapter, **changes):
    path.mkdir(exist_ok=True)
    save_file(adapter, path / "adapter_model.safetensors")
    (path / "adapter_config.json").write_text(json.dumps(CONFIG | changes))
    return path


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("fields", [("query", "down"), tuple(MODULES)])
def test_an_adapter_of_peft_is_added_to_its_model(
    base, weights, tmp_path, rslora, fields
):
    """W + (alpha / rank) B A, in float64, and with the root of the rank for rslora."""
    adapter = random_adapter(weights, fields)
    adapted = models.load_adapters(
        base, write_adapter(tmp_path, adapter, use_rslora=rslora)
    )
    summed = {name: x.astype(np.float64) for name, x in weights.items()}
    for name in list(adapter):
        if "lora_A" in name:
            a, b = (adapter[n] for n in (name, name.replace("lora_A", "lora_B")))
            place = name.removeprefix("base_model.model.").replace("lora_A.", "")
            summed[place] += 6 / (math.sqrt(3) if rslora else 3) * (b @ a)
    expected = reference_logits("qwen2", summed, TOKENS)
    seen = policy.logits(adapted, TOKENS)
    np.testing.assert_allclose(seen, expected, rtol=0, atol=1e-4)
    assert abs(expected - reference_logits("qwen2", weights, TOKENS)).max() > 0.1
    merged = policy.logits(models.merge(adapted), TOKENS)
    np.testing.assert_allclose(merged, expected, rtol=0, atol=1e-4)


def test_what_is_saved_is_what_peft_would_save(base, weights, tmp_path):
    adapted = models.lora(base, ("value", "gate"), rank=2, alpha=5.0, key=jr.key(0))
    adapted = learned(adapted)
    models.save_adapters(adapted, tmp_path / "adapter", base="someone/something")
    names = {file.name for file in (tmp_path / "adapter").iterdir()}
    assert names == {"adapter_config.json", "adapter_model.safetensors"}
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config.items() <= (CONFIG | config).items()
    assert set(config) <= set(CONFIG)
    assert (config["r"], config["lora_alpha"]) == (2, 5)
    assert config["target_modules"] == ["v_proj", "gate_proj"]
    assert config["base_model_name_or_path"] == "someone/something"
    stored = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert set(stored) == set(random_adapter(weights, ("value", "gate")))
    a = "base_model.model.model.layers.1.mlp.gate_proj.lora_A.weight"
    np.testing.assert_array_equal(stored[a], adapted.layers.gate.a[1].T)
    b = "base_model.model.model.layers.0.self_attn.v_proj.lora_B.weight"
    np.testing.assert_array_equal(stored[b], adapted.layers.value.b[0].T)


@pytest.mark.parametrize("alpha", [16.0, 0.1])
def test_there_and_back_changes_no_bit(base, tmp_path, alpha):
    adapted = learned(models.lora(base, rank=3, alpha=alpha, key=jr.key(0)))
    models.save_adapters(adapted, tmp_path)
    again = models.load_adapters(base, tmp_path)
    chex.assert_trees_all_equal(again, adapted)
    assert again.layers.up.alpha == alpha
    # On eight and on four bits as well, and over what was there.
    for bits in (8, 4):
        coarse = models.quantize(base, bits)
        models.save_adapters(models.load_adapters(coarse, tmp_path), tmp_path)
    chex.assert_trees_all_equal(models.load_adapters(base, tmp_path), adapted)


def test_several_ranks_and_alphas_are_written_as_patterns(base, tmp_path):
    adapted = models.lora(base, ("query",), rank=2, alpha=4, key=jr.key(0))
    adapted = models.lora(adapted, ("key", "up"), rank=3, alpha=4, key=jr.key(1))
    adapted = learned(models.lora(adapted, ("gate",), rank=2, alpha=0.5, key=jr.key(2)))
    models.save_adapters(adapted, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["rank_pattern"] == {"k_proj": 3, "up_proj": 3}
    assert config["alpha_pattern"] == {"gate_proj": 0.5}
    chex.assert_trees_all_equal(models.load_adapters(base, tmp_path), adapted)


def effective(weights, adapter, scale):
    """The weights with every pair of factors added, `scale` of its module each."""
    summed = {name: x.astype(np.float64) for name, x in weights.items()}
    for name in adapter:
        if "lora_A" in name:
            module = name.removeprefix("base_model.model.").removesuffix(
                ".lora_A.weight"
            )
            b = adapter[name.replace("lora_A", "lora_B")]
            summed[f"{module}.weight"] += scale(module, len(adapter[name])) * (
                b @ adapter[name]
            )
    return summed


@pytest.mark.parametrize("rslora", [False, True])
def test_layers_have_ranks_and_scales_of_their_own(base, weights, tmp_path, rslora):
    """W + (alpha / rank) B A with the rank and the alpha that a pattern matches."""
    adapter = random_adapter(weights)
    draw = np.random.default_rng(7)
    for layer, module in ((0, "self_attn.q_proj"), (1, "mlp.down_proj")):
        start = f"base_model.model.model.layers.{layer}.{module}.lora"
        outputs, inputs = weights[f"model.layers.{layer}.{module}.weight"].shape
        adapter[f"{start}_A.weight"] = draw.normal(size=(5, inputs)).astype(np.float32)
        adapter[f"{start}_B.weight"] = draw.normal(size=(outputs, 5)).astype(np.float32)
    patterns = dict(
        rank_pattern={r"layers\.0\.self_attn.q_proj": 5, "1.mlp.down_proj": 5},
        alpha_pattern={"0.mlp.down_proj": 2, "q_proj": 9},
    )

    def scale(module, rank):
        alpha = 9 if "q_proj" in module else 2 if ".0.mlp" in module else 6
        return alpha / (math.sqrt(rank) if rslora else rank)

    path = write_adapter(tmp_path, adapter, use_rslora=rslora, **patterns)
    adapted = models.load_adapters(base, path)
    expected = reference_logits("qwen2", effective(weights, adapter, scale), TOKENS)
    seen = policy.logits(adapted, TOKENS)
    np.testing.assert_allclose(seen, expected, rtol=0, atol=1e-4)
    # What is padded has no gradient, so it is never trained.
    models.save_adapters(adapted, tmp_path / "again")
    again = models.load_adapters(base, tmp_path / "again")
    np.testing.assert_allclose(policy.logits(again, TOKENS), seen, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "change",
    [
        dict(layers_to_transform=[1]),
        dict(layers_to_transform=1, layers_pattern="layers"),
        dict(target_modules=r".*layers\.1\..*q_proj"),
        dict(target_modules=["layers.1.self_attn.q_proj"]),
        dict(exclude_modules=["layers.0.self_attn.q_proj"]),
    ],
    ids=lambda change: next(iter(change)),
)
def test_some_layers_have_an_adapter(base, weights, tmp_path, change):
    adapter = {
        x: y for x, y in random_adapter(weights, ("query",)).items() if ".1." in x
    }
    adapted = models.load_adapters(base, write_adapter(tmp_path, adapter, **change))
    summed = effective(weights, adapter, lambda _, rank: 6 / rank)
    expected = reference_logits("qwen2", summed, TOKENS)
    np.testing.assert_allclose(policy.logits(adapted, TOKENS), expected, atol=1e-4)
    # The other layer's factors are zeros: neither has a gradient.
    assert not adapted.layers.query.a[0].any() and not adapted.layers.query.b[0].any()


def test_adapters_in_16_bits_are_float32_here(base, weights, tmp_path):
    adapter = random_adapter(weights)
    half = {name: x.astype(np.float16) for name, x in adapter.items()}
    adapted = models.load_adapters(base, write_adapter(tmp_path, half))
    assert adapted.layers.query.a.dtype == jnp.float32
    name = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"
    np.testing.assert_array_equal(adapted.layers.query.a[1], half[name].T)


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(peft_type="LOHA"), "`peft_type` = 'LOHA'"),
        (dict(use_dora=True), "`use_dora` = True"),
        (dict(rank_pattern={"q_proj": 0}), "`r` = 0"),
        (dict(alpha_pattern={"q_proj": "high"}), "`lora_alpha` = 'high'"),
        (dict(bias="all"), "`bias` = 'all'.*only 'none'"),
        (dict(lora_bias=True), "`lora_bias` = True"),
        (dict(modules_to_save=["lm_head"]), "`modules_to_save` =.*merge_and_unload"),
        (dict(trainable_token_indices=[0]), "`trainable_token_indices` ="),
        (dict(init_lora_weights="pissa"), "`init_lora_weights` = 'pissa'"),
        (dict(fan_in_fan_out=True), "`fan_in_fan_out` = True"),
        (dict(use_something_new=1), "`use_something_new` = 1.*merge_and_unload"),
        (dict(r=0), "`r` = 0"),
        (dict(lora_alpha="high"), "`lora_alpha` = 'high'"),
    ],
)
def test_settings_that_would_change_the_arithmetic_are_refused(
    base, weights, tmp_path, change, words
):
    with pytest.raises(ValueError, match=words):
        models.load_adapters(
            base, write_adapter(tmp_path, random_adapter(weights), **change)
        )


def test_tensors_that_do_not_fit_are_refused(base, weights, tmp_path):
    adapter = random_adapter(weights)
    name = "base_model.model.model.layers.1.mlp.down_proj.lora_B.weight"
    head = "base_model.model.lm_head.lora_A.weight"
    few = {tensor: x for tensor, x in adapter.items() if tensor != name}
    shape = r"\(16, 4\) instead of \(16, 3"
    cases = [
        (few, "Missing: .*layers.1.*lora_B"),
        (adapter | {head: np.ones((3, 16), np.float32)}, "'lm_head'.*merge_and_unload"),
        (adapter | {name: np.ones((16, 4), np.float32)}, shape),
        (adapter | {name: np.ones((16, 3), np.int32)}, "lora_B.weight is I32"),
        ({head: np.ones((3, 16), np.float32)}, "1 tensors of others.*merge_and_unload"),
        (
            {"base_model.model.model.embed_tokens.lora_embedding_A": np.ones((3, 19))},
            "'model.embed_tokens'",
        ),
        ({}, "Received none"),
    ]
    for tensors, words in cases:
        with pytest.raises(ValueError, match=words):
            models.load_adapters(base, write_adapter(tmp_path, tensors))
    write_adapter(tmp_path, adapter)
    (tmp_path / "adapter_model.safetensors").rename(tmp_path / "adapter_model.bin")
    with pytest.raises(FileNotFoundError, match="save them as safetensors"):
        models.load_adapters(base, tmp_path)
    with pytest.raises(FileNotFoundError, match="adapter_config.json"):
        models.load_adapters(base, tmp_path / "nowhere")


def test_adapters_go_where_there_are_none(base, weights, tmp_path):
    write_adapter(tmp_path, random_adapter(weights))
    adapted = models.load_adapters(base, tmp_path)
    with pytest.raises(ValueError, match="`query` has one of rank 3 already"):
        models.load_adapters(adapted, tmp_path)


def test_what_cannot_be_saved_is_refused(base, tmp_path):
    adapted = models.lora(base, ("query",), rank=2, alpha=4, key=jr.key(0))
    with pytest.raises(ValueError, match="`query` is LowRankMatrix.*models.merge"):
        models.save(adapted, tmp_path / "model")
    with pytest.raises(ValueError, match="`query` is Int8Matrix.*models.merge"):
        models.save(models.quantize(base), tmp_path / "model")
    with pytest.raises(ValueError, match="a policy that has none"):
        models.save_adapters(base, tmp_path / "adapter")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("mine")
    with pytest.raises(NotADirectoryError, match="file', which is a file"):
        models.save_adapters(adapted, tmp_path / "file")


def test_what_is_merged_is_saved_as_any_model(base, tmp_path):
    adapted = learned(models.lora(base, rank=2, alpha=4, key=jr.key(0)))
    merged = models.merge(adapted)
    models.save(merged, tmp_path)
    again = models.load(tmp_path)
    chex.assert_trees_all_equal(again, merged)
    assert not eqx.tree_equal(again.layers.up, base.layers.up)
    chex.assert_trees_all_equal(models.merge(base), base)
