"""A stop string ends a turn inside the decode loop."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from grpojax import rollout, RolloutConfig
from grpojax.text import byte_table, oracle, stop_string

from ..helpers import count_env, mostly_slow, transformer


PIECES = [b"abcdefghij"[i % 10 :][: 1 + i % 3] for i in range(50)]


@pytest.mark.laws
@pytest.mark.parametrize("slots", mostly_slow([None, 5], [5]))
def test_a_completion_ends_with_the_token_that_completes_it(slots):
    """The tokens are those of a run without it, up to its first occurrence."""
    policy, never = transformer(sharpen=4.0), dict(ends=(99,))
    config = RolloutConfig(prompts=8, group=4, slots=slots)
    sample = eqx.filter_jit(rollout.generate)
    free = sample(policy, count_env(**never), config, key=jr.key(3))
    stop = stop_string(byte_table(PIECES), b"cd")
    env = count_env(**never, stop=stop)
    stopped = sample(policy, env, config, key=jr.key(3))
    ends = 0
    for row in np.ndindex(8, 4):
        tokens = free.tokens[row].tolist()
        found = oracle.stop_string(PIECES, tokens, b"cd")
        length = found.index(True) + 1 if any(found) else len(tokens)
        ends += length < len(tokens)
        assert stopped.tokens[row][:length].tolist() == tokens[:length]
        assert int(jnp.sum(stopped.sampled[row])) == length
        assert bool(stopped.terminated[row]) == any(found)
    assert 4 <= ends < 32


def test_each_turn_is_matched_on_its_own_tokens():
    """Neither a reply nor the turn before it begins a string that a turn ends."""
    stop = stop_string(byte_table(PIECES), b"cd")
    sizes = dict(max_turns=3, reply_length=2, max_completion_length=24)
    env = count_env(ends=(99,), stop=stop, **sizes)
    config = RolloutConfig(prompts=6, group=3, slots=4)
    made = eqx.filter_jit(rollout.generate)(
        transformer(sharpen=4.0), env, config, key=jr.key(0)
    )
    turns = 0
    for row in np.ndindex(6, 3):
        sampled = np.asarray(made.sampled[row])
        last = np.flatnonzero(sampled)[-1]
        turn: list[int] = []
        for place in range(last + 1):
            if not sampled[place]:
                turn = []
                continue
            turn.append(int(made.tokens[row][place]))
            over = place == last or not sampled[place + 1]
            found = oracle.stop_string(PIECES, turn, b"cd")
            assert not any(found[:-1])
            assert over or not found[-1]
            if over and (place < last or made.terminated[row]):
                assert found[-1]
            turns += found[-1]
    assert turns > 6


def test_an_environment_is_an_argument_of_a_program():
    env = count_env(stop=stop_string(byte_table(PIECES), b"ab"))
    assert len(jax.tree.leaves(env)) == len(jax.tree.leaves(count_env())) + 1
