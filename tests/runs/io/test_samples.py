"""Samples on the device, and as records."""

import json

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from grpojax import rollout
from grpojax.runs.io.jsonl import encode
from grpojax.runs.io.records import SampleGroup
from grpojax.runs.io.samples import (
    Samples,
    shortest_float,
    to_records,
    token_pieces,
)
from grpojax.types import Prompt, Rewards, TurnRewards

from ...envs.double import ByteTokenizer
from ...helpers import count_env, transformer


def samples(**changes) -> Samples:
    """Two prompts and two samples each of "é1", of which the last byte is a reply."""
    tokens = np.array([1 + byte for byte in "é1".encode()] + [0, 0], np.int32)
    sampled = np.array([True, True, False, True, False])
    shape = (2, 2, 5)
    fields = dict(
        prompt=Prompt(
            jnp.array([[1 + ord("a"), 7], [1 + ord("b"), 7]]), jnp.ones(2, int)
        ),
        tokens=np.broadcast_to(tokens, shape),
        sampled=np.broadcast_to(sampled, shape),
        log_prob=np.full(shape, -0.1, np.float32),
        terminated=np.array([[True, False], [False, False]]),
        rewards={"correct": np.array([[1.0, np.nan], [0.0, 0.0]], np.float32)},
        total=np.array([[1.0, 0.5], [0.0, 0.0]], np.float32),
        valid=np.array([[True, False], [True, True]]),
        advantage=np.array([[1.5, -0.5], [0.0, 0.0]], np.float32),
    )
    # Equal on the host and on a device, but only the latter is what the fields say.
    return Samples(**jax.tree.map(jnp.asarray, {**fields, **changes}))


def test_a_record_is_a_prompt_with_its_samples_side_by_side():
    first, second = to_records(7, samples(), ByteTokenizer())
    assert (first["step"], first["prompt"], second["prompt"]) == (7, "a", "b")
    left, right = first["samples"]
    assert left["text"] == "é1"
    # Four tokens were spoken: the two bytes of a letter, a reply, and the end.
    assert left["pieces"][:3] == ["", "é", "1"] and len(left["pieces"]) == 4
    assert left["sampled"] == [True, True, False, True]
    # As short as float32 allows, and the same number.
    assert left["log_prob"] == [-0.1] * 4
    assert left["rewards"] == {"correct": 1.0} and np.isnan(right["rewards"]["correct"])
    assert (left["total"], left["advantage"], left["valid"]) == (1.0, 1.5, True)
    assert (right["total"], right["advantage"], right["valid"]) == (0.5, -0.5, False)
    assert left["terminated"] is True and right["terminated"] is False


def test_rewards_of_turns_that_were_taken():
    ends = jnp.array([[[2, 5], [4, 0]], [[5, 0], [0, 0]]])
    paid = jnp.array([[[0.25, 1.0], [0.5, 0.0]], [[1.0, 0.0], [0.0, 0.0]]])
    of = samples(turns=TurnRewards(ends, {"correct": paid}))
    record, _ = to_records(1, of, ByteTokenizer())
    found = [sample["turns"] for sample in record["samples"]]
    assert found == [{"correct": [0.25, 1.0]}, {"correct": [0.5]}]
    (read, _) = SampleGroup.from_json(json.loads(encode(record))).samples
    assert read.turns == {"correct": [0.25, 1.0]}
    assert SampleGroup.from_json({"step": 1, "samples": [{}]}).samples[0].turns == {}


def test_advantages_of_tokens_become_one_of_the_row():
    advantages = np.zeros((2, 2, 5), np.float32)
    advantages[0, 0] = [3, 6, 100, 0, 100]
    record, _ = to_records(1, samples(advantage=advantages), ByteTokenizer())
    assert [sample["advantage"] for sample in record["samples"]] == [3.0, 0.0]


def test_a_row_that_says_nothing():
    silent = samples(sampled=np.zeros((2, 2, 5), bool))
    for record in to_records(1, silent, ByteTokenizer()):
        for sample in record["samples"]:
            assert sample["text"] == "" and sample["pieces"] == []
            assert np.isfinite(sample["advantage"])


def test_bytes_that_make_no_character_are_not_lost():
    half = [1 + byte for byte in "é".encode()[:1]]
    assert token_pieces(half, ByteTokenizer()) == ["\ufffd"]


def test_the_shortest_number_is_the_same_number():
    random = np.random.default_rng(0)
    for x in random.normal(size=200).astype(np.float32) * 1e-3:
        assert np.float32(shortest_float(x)) == x


def test_what_does_not_apply_is_null():
    every = samples(total=None, valid=None, advantage=None, rewards={})
    for record in to_records(0, every, ByteTokenizer()):
        for sample in json.loads(encode(record))["samples"]:
            assert sample["total"] is None and sample["advantage"] is None
            assert sample["valid"] is False and sample["rewards"] == {}


def test_samples_of_a_trajectory():
    env = count_env(target=7)
    states, prompts = jax.vmap(env.reset)(jr.split(jr.key(0), 2))
    made = rollout.complete(transformer(), env, states, prompts, group=3, key=jr.key(1))
    alone = Samples.of(made)
    assert alone.rewards is made.rewards
    assert (alone.total, alone.valid, alone.advantage) == (None, None, None)
    rewards = Rewards.of(jnp.ones((2, 3)), name="mine")
    full = Samples.of(made, rewards, jnp.ones((2, 3)))
    assert set(full.rewards) == {"mine"} and full.total is rewards.total
    first = jax.device_get(jax.tree.map(lambda x: x[:1], full))
    (record,) = to_records(1, first, ByteTokenizer())
    assert [x["advantage"] for x in record["samples"]] == [1.0, 1.0, 1.0]
