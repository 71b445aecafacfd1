import os
import subprocess
import sys
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import pytest

import grpojax
from envs.gsm8k import GSM8K, word_problems
from examples.make_default import SHAPES
from grpojax.models import (
    config_from_huggingface,
    config_to_huggingface,
    load,
    Transformer,
)
from grpojax.text import load_tokenizer


ROOT = Path(__file__).resolve().parents[1]
ASSETS = Path(grpojax.__file__).parent / "assets" / "gsm8k-tiny"


def make(out):
    command = [sys.executable, "examples/make_default.py", "--out", str(out)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([*command, "--steps", "1"], cwd=ROOT, env=environment, check=True)
    return {path.name: path.read_bytes() for path in out.iterdir()}


@pytest.mark.slow
def test_one_seed_gives_the_same_bytes(tmp_path):
    first = make(tmp_path / "first")
    assert make(tmp_path / "again") == first
    shipped = {path.name: path.read_bytes() for path in ASSETS.iterdir()}
    assert set(first) == set(shipped)
    # Fewer steps teach less, and change nothing else.
    for name in set(shipped) - {"model.safetensors"}:
        assert first[name] == shipped[name]


def test_what_is_shipped_is_small_and_fits_its_problems():
    assert sum(path.stat().st_size for path in ASSETS.iterdir()) < 2_500_000
    policy, tokenizer = load(ASSETS), load_tokenizer(ASSETS)
    assert tokenizer.vocab_size == policy.vocab_size
    assert tokenizer.pad_token not in tokenizer.end_tokens
    rows = word_problems(2000)
    env = GSM8K(rows, tokenizer, max_completion_length=36)
    assert env.max_prompt_length <= 48
    longest = max(len(tokenizer.encode(row["answer"])) for row in rows)
    assert longest < env.max_completion_length
    assert jax.tree.leaves(policy)[0].dtype == jnp.bfloat16


@pytest.mark.parametrize(
    "shape, family", [("gemma", "gemma3_text"), ("experts", "qwen3_moe")]
)
def test_twins_are_models_of_their_families(shape, family):
    """Of the default's size, and files of their families express all of them."""
    config = SHAPES[shape]
    written = config_to_huggingface(config)
    assert written["model_type"] == family
    assert config_from_huggingface(written) == config
    sizes = [
        sum(
            x.size
            for x in jax.tree.leaves(
                eqx.filter_eval_shape(Transformer, one, key=jr.key(0))
            )
        )
        for one in (config, load(ASSETS).config)
    ]
    assert sizes[1] <= sizes[0] < 3.5 * sizes[1]


def test_any_text_can_be_encoded():
    tokenizer = load_tokenizer(ASSETS)
    text = "Zoé bought 3½ kg für 5 €\n\tüber #### 12"
    tokens = tokenizer.encode(text)
    assert tokenizer.token_id("<unk>") not in tokens
    assert tokenizer.decode(tokens) == text
