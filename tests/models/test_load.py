"""Directories that the tests write themselves, whole and broken."""

import fnmatch
import json
import re
import struct

import huggingface_hub
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file
from tiny_checkpoints import (
    huggingface_config,
    make_directory,
    random_tensors,
    reference_logits,
    write_directory,
)

from grpojax import models, policy


TOKENS = np.array([3, 1, 4, 1, 5, 9, 2, 6])
Q = "model.layers.1.self_attn.q_proj.weight"


def logits(model, tokens=TOKENS):
    return np.asarray(policy.logits(model, tokens))


def save_tensors(directory, tensors):
    save_file(tensors, directory / "model.safetensors")


@pytest.mark.parametrize("form, shards", [("4", 1), ("5", 3)])
def test_the_model_is_the_one_in_the_file(tmp_path, case, form, shards):
    family, tied = case
    tensors = random_tensors(family, tied)
    config = huggingface_config(family, tied, form)
    model = models.load(write_directory(tmp_path, config, tensors, shards=shards))
    expected = reference_logits(family, tensors, TOKENS)
    np.testing.assert_allclose(logits(model), expected, rtol=0, atol=2e-5)
    assert (model.head is None) == tied


@pytest.mark.parametrize("stored", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_the_file_decides_the_dtype(tmp_path, stored):
    tensors = random_tensors("qwen2", False, stored)
    config = huggingface_config("qwen2", False)
    model = models.load(write_directory(tmp_path, config, tensors))
    assert {leaf.dtype for leaf in jax.tree.leaves(model)} == {np.dtype(stored)}
    assert model.compute_dtype == np.dtype(stored).name
    np.testing.assert_array_equal(model.layers.query[1], tensors[Q].T)
    np.testing.assert_array_equal(model.embedding, tensors["model.embed_tokens.weight"])


@pytest.mark.parametrize("dtype", ["bfloat16", jnp.bfloat16, jnp.dtype("bfloat16")])
def test_the_caller_may_decide_the_dtype(tmp_path, dtype):
    make_directory(tmp_path)
    model = models.load(tmp_path, dtype=dtype, compute_dtype="float32", remat="layers")
    expected = random_tensors("llama", False)[Q].T.astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(model.layers.query[1], expected)
    assert (model.compute_dtype, model.remat) == ("float32", "layers")


def test_a_file_of_several_dtypes_is_loaded_in_one_that_holds_them(tmp_path):
    tensors = random_tensors("llama", True, ml_dtypes.bfloat16)
    tensors["model.norm.weight"] = tensors["model.norm.weight"].astype(np.float32)
    write_directory(tmp_path, huggingface_config("llama", True), tensors)
    model = models.load(str(tmp_path))
    assert {leaf.dtype for leaf in jax.tree.leaves(model)} == {np.dtype(np.float32)}


@pytest.mark.parametrize("choice", [dict(dtype="int8"), dict(compute_dtype="float64")])
def test_other_dtypes_are_refused(tmp_path, choice):
    make_directory(tmp_path)
    with pytest.raises(ValueError, match="float32, float16 or bfloat16. Received"):
        models.load(tmp_path, **choice)


def test_what_old_files_hold_beside_the_weights_is_ignored(tmp_path):
    make_directory(tmp_path, tied=True)
    expected = logits(models.load(tmp_path))
    tensors = random_tensors("llama", True)
    frequencies = dict.fromkeys(
        ["model.layers.0.self_attn.rotary_emb.inv_freq"], np.ones(3, np.float32)
    )
    copy = {"lm_head.weight": tensors["model.embed_tokens.weight"]}
    save_tensors(tmp_path, tensors | frequencies | copy)
    np.testing.assert_array_equal(logits(models.load(tmp_path)), expected)


def test_a_tied_head_must_be_the_embedding(tmp_path):
    make_directory(tmp_path, tied=True)
    tensors = random_tensors("llama", True)
    other = tensors["model.embed_tokens.weight"] * 2
    save_tensors(tmp_path, tensors | {"lm_head.weight": other})
    with pytest.raises(ValueError, match="lm_head.weight differs from model.embed_t"):
        models.load(tmp_path)


def _rename(tensors, old, new):
    return {new if name == old else name: x for name, x in tensors.items()}


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda x: {name: y for name, y in x.items() if name != Q},
            f"Missing: {Q}. Unexpected: none",
        ),
        (
            lambda x: x | {"score.weight": np.ones((2, 16), np.float32)},
            "Missing: none. Unexpected: score.weight",
        ),
        (
            lambda x: _rename(x, Q, f"{Q}.q4"),
            f"Missing: {Q}. Unexpected: {Q}.q4",
        ),
        (
            lambda x: {name.removeprefix("model."): y for name, y in x.items()},
            "Missing: model.embed_tokens.weight, .* and 15 more",
        ),
        (
            lambda x: x | {Q: np.ascontiguousarray(x[Q].T)},
            rf"{Q} has \(16, 24\) instead of \(24, 16\)",
        ),
        (
            lambda x: x | {Q: x[Q].astype(np.int8)},
            f"stored as F32, F16, BF16. Received: {Q} is I8",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(tmp_path, change, message):
    make_directory(tmp_path)
    save_tensors(tmp_path, change(random_tensors("llama", False)))
    with pytest.raises(ValueError, match=message):
        models.load(tmp_path)


@pytest.mark.parametrize("rest", [4, 100, 3000])
def test_a_truncated_file_reports_its_sizes(tmp_path, rest):
    file = make_directory(tmp_path) / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:rest])
    length = struct.unpack("<Q", content[:8])[0]
    announced = {4: None, 100: 8 + length, 3000: len(content)}[rest]
    with pytest.raises(ValueError) as raised:
        models.load(tmp_path)
    assert f"{file} is incomplete" in str(raised.value)
    assert f"and has {rest}" in str(raised.value)
    assert announced is None or f"{announced} bytes" in str(raised.value)


@pytest.mark.parametrize(
    "content",
    [
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        struct.pack("<Q", 4) + b"nope",
        struct.pack("<Q", 8) + b'{"a": 1}',
        struct.pack("<Q", 2) + b"[]",
    ],
)
def test_a_file_of_another_format_is_named(tmp_path, content):
    file = make_directory(tmp_path) / "model.safetensors"
    file.write_bytes(content)
    with pytest.raises(ValueError, match="model.safetensors is corrupt or no safetens"):
        models.load(tmp_path)


def test_a_missing_shard_is_named(tmp_path):
    config, tensors = huggingface_config("llama", False), random_tensors("llama", False)
    write_directory(tmp_path, config, tensors, shards=3)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    message = "names 3 files, of which .* lacks model-00002-of-00003.safetensors"
    with pytest.raises(FileNotFoundError, match=message):
        models.load(tmp_path)


def test_an_index_without_a_map_is_refused(tmp_path):
    make_directory(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(ValueError, match="under `weight_map`. Received None"):
        models.load(tmp_path)


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/passwd", "a/b", 7])
def test_an_index_leads_to_no_other_directory(tmp_path, name):
    make_directory(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").rename(tmp_path / "outside.safetensors")
    index = tmp_path / "model" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"model.norm.weight": name}}))
    kind = FileNotFoundError if name == 7 else ValueError
    with pytest.raises(kind, match=f"names.*{re.escape(str(name))}"):
        models.load(tmp_path / "model")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(tmp_path, name):
    (make_directory(tmp_path) / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"A model directory contains {name}"):
        models.load(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_config_that_is_no_json_object_is_named(tmp_path, content):
    (make_directory(tmp_path) / "config.json").write_text(content)
    with pytest.raises(ValueError, match="config.json is not a JSON object"):
        models.load(tmp_path)


def test_a_config_that_is_not_implemented_is_refused(tmp_path):
    make_directory(tmp_path)
    values = huggingface_config("llama", False) | dict(model_type="gemma3")
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match="llama, mistral, qwen2, qwen3.*'gemma3'"):
        models.load(tmp_path)


@pytest.mark.parametrize("path", ["nowhere", "./no/where", "/no/where"])
def test_a_path_that_is_no_name_never_asks_the_hub(path, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", None)
    with pytest.raises(FileNotFoundError, match="no such directory, and it is not the"):
        models.load(path)


def test_an_unreachable_hub_is_reported(monkeypatch):
    def offline(name, **_):
        raise ConnectionError(f"no route to {name}")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    message = (
        "no such directory, and downloading .* hub failed .*no route to some/model"
    )
    with pytest.raises(FileNotFoundError, match=message):
        models.load("some/model")


def test_the_hub_is_asked_for_what_is_read_and_no_more(tmp_path, monkeypatch):
    make_directory(tmp_path)
    asked = []

    def download(name, *, allow_patterns):
        asked.append((name, tuple(allow_patterns)))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    from_hub, local = models.load("some/model"), models.load(tmp_path)
    np.testing.assert_array_equal(logits(from_hub), logits(local))
    patterns = ("config.json", "model.safetensors", "model.safetensors.index.json")
    patterns += ("model-*.safetensors", "model.safetensors-*.safetensors")
    assert asked == [("some/model", ("config.json",)), ("some/model", patterns)]


def test_a_model_that_is_refused_costs_one_file(tmp_path, monkeypatch):
    make_directory(tmp_path, model_type="mamba", architectures=["MambaForCausalLM"])
    asked = []

    def download(name, *, allow_patterns):
        asked.extend([name, *allow_patterns])
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(ValueError, match="mamba"):
        models.load("some/model")
    assert asked == ["some/model", "config.json"]


@pytest.mark.parametrize("name", ["model-{}-of-00002", "model.safetensors-{}-of-00002"])
def test_shards_of_either_name(tmp_path, name):
    """The hub's filter passes the names that an index may have, and they load."""
    tensors = random_tensors("llama", False)
    config = huggingface_config("llama", False)
    path = write_directory(tmp_path / "a", config, tensors, shards=2)
    index = path / "model.safetensors.index.json"
    text = index.read_text()
    for shard in ("00001", "00002"):
        old = f"model-{shard}-of-00002.safetensors"
        new = f"{name.format(shard)}.safetensors"
        (path / old).rename(path / new)
        text = text.replace(old, new)
    index.write_text(text)
    asked = []

    def download(_, *, allow_patterns):
        asked[:] = allow_patterns
        return str(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(huggingface_hub, "snapshot_download", download)
        policy = models.load("some/model")
    for file in path.iterdir():
        assert any(fnmatch.fnmatch(file.name, pattern) for pattern in asked)
    models.save(policy, path)  # And none of them is left beside the new file.
    written = {file.name for file in path.iterdir()}
    assert written == {"config.json", "model.safetensors"}
