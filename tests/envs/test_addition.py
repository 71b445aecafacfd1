import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from envs.addition import Addition, pairs
from grpojax.env import Turn
from grpojax.text import oracle

from .double import PIECES


step = eqx.filter_jit(lambda env, state, turn: env.step(state, turn)[1].rewards)
read = eqx.filter_jit(lambda env, turn: env.answer(turn))


def turn_of(tokens, width):
    padded = np.zeros(width, np.int32)
    padded[: len(tokens)] = tokens
    return Turn(*map(jnp.asarray, (padded, np.int32(len(tokens)), True)))


def test_the_splits_have_no_pair_in_common_and_none_that_is_shown():
    train, test = pairs("train"), pairs("test")
    shown = {(2, 3), (9, 4), (0, 7)}
    every = {(a, b) for a in range(10) for b in range(10)}
    assert (len(train), len(test)) == (65, 32)
    assert {*train, *test} == every - shown
    with pytest.raises(ValueError, match="'train' or 'test'. Received 'dev'"):
        pairs("dev")


@pytest.mark.parametrize("split", ["train", "test"])
def test_prompts_ask_for_the_sum_that_is_the_state(tokenizer, split):
    env = Addition(tokenizer, split=split)
    assert env.size == len(pairs(split))
    for problem, (a, b) in enumerate(pairs(split)):
        answer, prompt = env.problem(jnp.asarray(problem))
        text = tokenizer.decode(prompt.tokens[: prompt.length])
        assert text == f"2 + 3 = 5\n9 + 4 = 13\n0 + 7 = 7\n{a} + {b} ="
        assert int(answer) == a + b


def test_newlines_end_a_turn(tokenizer):
    env = Addition(tokenizer)
    ends = [PIECES[token] for token in env.end_tokens.tolist()]
    assert ends == [b"", b"\n", b"</answer>\n", b"\n\n"]
    assert (env.max_turns, env.max_completion_length) == (1, 4)
    assert env.vocab_size == len(PIECES)
    with pytest.raises(ValueError, match="at least 1. Received 0"):
        Addition(tokenizer, max_completion_length=0)


def test_rewards_equal_the_oracle_on_arbitrary_tokens(tokenizer):
    env = Addition(tokenizer, max_completion_length=8)
    likely = [PIECES.index(bytes([byte])) for byte in b"0123456789 -.,$\n"]
    likely += [PIECES.index(b" 1"), PIECES.index(b"</answer>\n")]

    @settings(max_examples=150, deadline=None)
    @given(
        said=st.lists(
            st.one_of(st.sampled_from(likely), st.integers(0, len(PIECES) - 1)),
            max_size=8,
        ),
        error=st.sampled_from([0, 0, 1]),
    )
    def law(said, error):
        line = b"".join(PIECES[token] for token in said)[-16 * 8 :].split(b"\n")[0]
        number = oracle.parse_integer(line, "last")
        gold = 0 if number is None else number + error
        paid = step(env, jnp.asarray(gold, jnp.int32), turn_of(said, 8))
        paid = {name: float(reward) for name, reward in paid.items()}
        assert paid == {"correct": number == gold, "format": number is not None}
        answer = read(env, turn_of(said, 8))
        assert (int(answer.value) if answer.valid else None) == number
        assert env.gold(jnp.asarray(gold, jnp.int32)) == gold

    law()
