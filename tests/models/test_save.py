"""What is saved is what was loaded, and nothing half-written is left."""

import json

import equinox as eqx
import jax
import ml_dtypes
import numpy as np
import pytest
import tiny_checkpoints
from safetensors.numpy import load_file

from grpojax import models, text


DTYPES = (np.float32, np.float16, ml_dtypes.bfloat16)


def _tokenizer(directory, size=12, **generation):
    """A word-level tokenizer with as many tokens as are asked for."""
    from tokenizers import models as kinds, Tokenizer

    directory.mkdir()
    words = ["<end>", "<pad>", *(f"word{i}" for i in range(size - 2))]
    vocabulary = {word: i for i, word in enumerate(words)}
    Tokenizer(kinds.BPE(vocabulary, [])).save(str(directory / "tokenizer.json"))
    special = {"eos_token": "<end>", "pad_token": "<pad>"}
    (directory / "tokenizer_config.json").write_text(json.dumps(special))
    if generation:
        (directory / "generation_config.json").write_text(json.dumps(generation))
    return text.load_tokenizer(directory)


def _read(path):
    return json.loads(path.read_text())


def _bytes(directory):
    return {file.name: file.read_bytes() for file in directory.iterdir()}


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
def test_there_and_back_bit_for_bit(tmp_path, case, dtype):
    tensors = tiny_checkpoints.random_tensors(*case, dtype)
    config = tiny_checkpoints.huggingface_config(*case)
    source = tiny_checkpoints.write_directory(tmp_path / "a", config, tensors, shards=2)
    policy = models.load(source, remat="layers")
    models.save(policy, tmp_path / "b")
    assert eqx.tree_equal(models.load(tmp_path / "b", remat="layers"), policy)
    # Tensor for tensor as its own package reads them, names and layout included.
    written = load_file(tmp_path / "b" / "model.safetensors")
    assert written.keys() == tensors.keys()
    for name, expected in tensors.items():
        assert written[name].dtype == expected.dtype
        np.testing.assert_array_equal(written[name], expected)
    config = _read(tmp_path / "b" / "config.json")
    assert config["torch_dtype"] == np.dtype(dtype).name


def test_nothing_of_a_killed_process_is_left(tmp_path, case):
    tensors = tiny_checkpoints.random_tensors(*case, np.float32)
    config = tiny_checkpoints.huggingface_config(*case)
    source = tiny_checkpoints.write_directory(tmp_path / "a", config, tensors)
    half = source / ".saving-abc" / "model.safetensors"
    half.parent.mkdir()
    half.write_bytes(b"half")
    models.save(models.load(source), source)
    assert not half.parent.exists() and (source / "model.safetensors").exists()


def test_files_are_replaced_and_others_stay(tmp_path):
    tiny_checkpoints.make_directory(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    policy = models.load(tmp_path)
    doubled = jax.tree.map(lambda x: 2 * x, policy)
    models.save(doubled, tmp_path)
    assert eqx.tree_equal(models.load(tmp_path), doubled)
    assert {file.name for file in tmp_path.iterdir()} == {
        "config.json",
        "model.safetensors",
        "notes.txt",
    }


def test_ids_that_are_not_known_are_not_declared_to_be_none(tmp_path):
    """No tokenizer says that there are none, and a new directory declares nothing."""
    policy = models.load(tiny_checkpoints.make_directory(tmp_path / "a"))
    models.save(policy, tmp_path / "b")
    files = sorted(file.name for file in (tmp_path / "b").iterdir())
    assert files == ["config.json", "model.safetensors"]
    assert not [key for key in _read(tmp_path / "b" / "config.json") if "_id" in key]
    (tmp_path / "b" / "generation_config.json").write_text('{"eos_token_id": 3}')
    models.save(policy, tmp_path / "b")
    assert _read(tmp_path / "b" / "generation_config.json") == {"eos_token_id": 3}
    ids = {x: y for x, y in _read(tmp_path / "b" / "config.json").items() if "_id" in x}
    assert ids == {"eos_token_id": 3}


def test_weights_of_several_dtypes_are_saved_without_loss(tmp_path):
    tiny_checkpoints.make_directory(tmp_path)
    narrow = lambda p: (p.layers.up, p.embedding)
    policy = models.load(tmp_path)
    policy = eqx.tree_at(
        narrow, policy, replace_fn=lambda x: x.astype(ml_dtypes.bfloat16)
    )
    models.save(policy, tmp_path)
    loaded = models.load(tmp_path)
    for a, b in zip(jax.tree.leaves(loaded), jax.tree.leaves(policy), strict=True):
        np.testing.assert_array_equal(a, b.astype(np.float32))


def test_a_tokenizer_is_saved_beside_the_weights(tmp_path):
    policy = models.load(tiny_checkpoints.make_directory(tmp_path / "model"))
    tokenizer = _tokenizer(tmp_path / "tokenizer")
    models.save(policy, tmp_path / "both", tokenizer=tokenizer)
    special = {"bos_token_id": None, "eos_token_id": 0, "pad_token_id": 1}
    assert _read(tmp_path / "both" / "generation_config.json") == special
    assert _read(tmp_path / "both" / "config.json").items() >= special.items()
    again = text.load_tokenizer(tmp_path / "both")
    assert (again.vocab_size, again.end_tokens, again.pad_token) == (12, (0,), 1)
    assert eqx.tree_equal(models.load(tmp_path / "both"), policy)


def test_the_generation_config_is_saved(tmp_path):
    policy = models.load(tiny_checkpoints.make_directory(tmp_path / "model"))
    tokenizer = _tokenizer(tmp_path / "tokenizer", eos_token_id=[0, 5], top_p=0.8)
    models.save(policy, tmp_path / "both", tokenizer=tokenizer)
    assert _read(tmp_path / "both" / "generation_config.json") == {
        "bos_token_id": None,
        "eos_token_id": [0, 5],
        "pad_token_id": 1,
        "top_p": 0.8,
    }


@pytest.mark.parametrize("file", ["generation_config.json", "config.json"])
def test_a_save_keeps_the_ids_that_are_there(tmp_path, file):
    """Without a tokenizer, nothing is known of them: they survive round trips."""
    ids = {"bos_token_id": 1, "eos_token_id": [2, 3], "pad_token_id": 0}
    tiny_checkpoints.make_directory(tmp_path)
    path = tmp_path / file
    there = _read(path) if path.exists() else {"top_p": 0.8}
    path.write_text(json.dumps(there | ids))
    for _ in range(2):
        models.save(models.load(tmp_path), tmp_path)
        assert _read(tmp_path / "config.json").items() >= ids.items()
        generation = _read(tmp_path / "generation_config.json")
        assert generation == ids | ({"top_p": 0.8} if "top_p" in there else {})


def test_a_tokenizer_replaces_another_one(tmp_path):
    policy = models.load(tiny_checkpoints.make_directory(tmp_path / "model"))
    tokenizer = _tokenizer(tmp_path / "tokenizer")
    templates = tmp_path / "tokenizer" / "additional_chat_templates"
    templates.mkdir()
    (templates / "tool_use.jinja").write_text("tools")
    tokenizer = text.load_tokenizer(tmp_path / "tokenizer")
    both = tmp_path / "both"
    both.mkdir()
    (both / "added_tokens.json").write_text('{"<other>": 12}')
    (both / "generation_config.json").write_text('{"top_p": 0.8, "pad_token_id": 5}')
    models.save(policy, both, tokenizer=tokenizer)
    assert not (both / "added_tokens.json").exists()
    assert (both / "additional_chat_templates" / "tool_use.jinja").exists()
    assert _read(both / "generation_config.json") == {
        "top_p": 0.8,
        "bos_token_id": None,
        "eos_token_id": 0,
        "pad_token_id": 1,
    }


def test_a_failed_save_changes_nothing(tmp_path, monkeypatch):
    tiny_checkpoints.make_directory(tmp_path)
    policy = models.load(tmp_path)
    before = _bytes(tmp_path)

    def full(path, *_, **__):
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr("grpojax.models.files._huggingface.write_json", full)
    with pytest.raises(OSError, match="No space left"):
        models.save(jax.tree.map(lambda x: 2 * x, policy), tmp_path)
    assert _bytes(tmp_path) == before


def test_a_file_is_not_overwritten_by_a_directory(tmp_path):
    policy = models.load(tiny_checkpoints.make_directory(tmp_path / "model"))
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(NotADirectoryError, match="file', which is a file"):
        models.save(policy, file)
    assert file.read_text() == "mine"


@pytest.mark.parametrize("size, fits", [(12, True), (19, True), (20, False)])
def test_a_tokenizer_must_fit_the_vocabulary(tmp_path, size, fits):
    policy = models.load(tiny_checkpoints.make_directory(tmp_path / "model"))
    tokenizer = _tokenizer(tmp_path / "tokenizer", size)
    if fits:
        models.check_tokenizer(policy, tokenizer)
        return
    for call in (
        lambda: models.check_tokenizer(policy, tokenizer),
        lambda: models.save(policy, tmp_path / "both", tokenizer=tokenizer),
    ):
        with pytest.raises(ValueError, match="20 tokens for a vocabulary of 19"):
            call()
    assert not (tmp_path / "both").exists()
