"""Named model configurations, and a workload in which every run does the same work."""

import dataclasses
import json
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from grpojax.env import AbstractEnvironment, TimeStep
from grpojax.models import Block, Experts, TransformerConfig
from grpojax.types import Prompt


_QWEN2 = TransformerConfig(
    vocab_size=151_936,
    hidden_size=896,
    intermediate_size=4864,
    num_layers=24,
    num_heads=14,
    num_kv_heads=2,
    head_dim=64,
    rope_theta=1e6,
    qkv_bias=True,
    tied=True,
    max_positions=32_768,
)

_QWEN2_14B = dataclasses.replace(
    _QWEN2,
    vocab_size=152_064,
    hidden_size=5120,
    intermediate_size=13_824,
    num_layers=48,
    num_heads=40,
    num_kv_heads=8,
    head_dim=128,
    tied=False,
)

PRESETS = {
    "tiny": dataclasses.replace(
        _QWEN2,
        vocab_size=2048,
        hidden_size=256,
        intermediate_size=704,
        num_layers=4,
        num_heads=4,
    ),
    "smollm2-135m": TransformerConfig(
        vocab_size=49_152,
        hidden_size=576,
        intermediate_size=1536,
        num_layers=30,
        num_heads=9,
        num_kv_heads=3,
        head_dim=64,
        rope_theta=1e5,
        tied=True,
        max_positions=8192,
    ),
    "qwen2.5-0.5b": _QWEN2,
    "qwen3-30b-a3b": TransformerConfig(
        vocab_size=151_936,
        hidden_size=2048,
        intermediate_size=6144,
        num_layers=48,
        num_heads=32,
        num_kv_heads=4,
        head_dim=128,
        rope_theta=1e6,
        qk_norm=True,
        max_positions=40_960,
        block=Block(experts=Experts(count=128, chosen=8, size=768)),
        family="qwen3_moe",
    ),
    "qwen2.5-1.5b": dataclasses.replace(
        _QWEN2,
        hidden_size=1536,
        intermediate_size=8960,
        num_layers=28,
        num_heads=12,
        head_dim=128,
    ),
    "qwen2.5-3b": dataclasses.replace(
        _QWEN2,
        hidden_size=2048,
        intermediate_size=11_008,
        num_layers=36,
        num_heads=16,
        head_dim=128,
    ),
    "qwen2.5-7b": dataclasses.replace(
        _QWEN2,
        vocab_size=152_064,
        hidden_size=3584,
        intermediate_size=18_944,
        num_layers=28,
        num_heads=28,
        num_kv_heads=4,
        head_dim=128,
        tied=False,
    ),
    "qwen2.5-14b": _QWEN2_14B,
    "qwen2.5-32b": dataclasses.replace(
        _QWEN2_14B, intermediate_size=27_648, num_layers=64
    ),
    "llama-3-70b": TransformerConfig(
        vocab_size=128_256,
        hidden_size=8192,
        intermediate_size=28_672,
        num_layers=80,
        num_heads=64,
        num_kv_heads=8,
        head_dim=128,
        rope_theta=5e5,
        norm_eps=1e-5,
        max_positions=8192,
    ),
}


class RandomPrompts(AbstractEnvironment):
    """Asks random tokens, and pays the share of even ones; no row ever ends itself.

    Prompts have `prefix` tokens; `widest` is that of the longest of the data set.
    """

    end_tokens: jax.Array
    vocab_size: int = eqx.field(static=True)
    max_prompt_length: int = eqx.field(static=True)
    max_completion_length: int = eqx.field(static=True)
    prefix: int = eqx.field(static=True)
    max_turns: int = eqx.field(static=True, default=1)

    def __init__(
        self, vocab_size: int, prefix: int, time: int, widest: int | None = None
    ):
        self.end_tokens = jnp.array([vocab_size])  # Outside of what can be sampled.
        self.vocab_size = vocab_size
        self.prefix = prefix
        self.max_prompt_length = prefix if widest is None else widest
        self.max_completion_length = time
        self.max_turns = 1

    def reset(self, key):
        tokens = jr.randint(key, (self.max_prompt_length,), 0, self.vocab_size)
        length = jnp.array(self.prefix, jnp.int32)
        return jnp.zeros((), jnp.int32), Prompt(tokens, length)

    def step(self, state, turn):
        said = jnp.arange(self.max_completion_length) < turn.length
        even = jnp.sum((turn.tokens % 2 == 0) & said, dtype=jnp.float32)
        silence = jnp.zeros((0,), jnp.int32), jnp.zeros((), jnp.int32)
        paid = {"even": even / jnp.maximum(turn.length, 1)}
        return state, TimeStep(*silence, paid, jnp.array(True))


def lengths_of(text: str, prompts: int, group: int, time: int) -> np.ndarray:
    """How long each row is: `full`, `exponential:MEAN`, or a JSON file of integers.

    **Raises:** `ValueError` for anything else.
    """
    shape = (prompts, group)
    if text == "full":
        return np.full(shape, time)
    kind, _, mean = text.partition(":")
    if kind == "exponential":
        drawn = np.random.default_rng(0).exponential(float(mean or "nan"), shape)
        if np.isnan(drawn).any():
            raise ValueError(f"--lengths exponential:MEAN. Received {text!r}.")
        return np.clip(np.ceil(drawn), 1, time).astype(int)
    if not Path(text).is_file():
        raise ValueError(
            "--lengths is full, exponential:MEAN or a JSON file of integers. Received "
            f"{text!r}."
        )
    lengths = np.array(json.loads(Path(text).read_text(encoding="utf-8")), int)
    if lengths.size != prompts * group or lengths.min() < 1 or lengths.max() > time:
        raise ValueError(
            f"{text} must hold {prompts * group} lengths between 1 and {time}. "
            f"Received {lengths.size} between {lengths.min()} and {lengths.max()}."
        )
    return lengths.reshape(shape)


def iterations_of(lengths: np.ndarray, slots: int | None) -> int:
    """How often the decode loop runs: a free slot takes the next row."""
    rows = lengths.reshape(-1)
    lanes = np.zeros(min(slots or rows.size, rows.size), int)
    for length in rows:
        lanes[lanes.argmin()] += length
    return int(lanes.max())
