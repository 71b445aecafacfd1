import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jaxtyping import Array, Int

from grpojax.env import AbstractDatasetEnvironment, TimeStep
from grpojax.policy import logits
from grpojax.rollout import Categorical, Greedy
from grpojax.runs.evaluation import evaluate
from grpojax.runs.statistics import wilson
from grpojax.types import Prompt

from ..helpers import transformer


KEY = jr.key(0)


class ParityEnv(AbstractDatasetEnvironment[Int[Array, ""]]):
    """Right is what sums to a number of the problem's parity."""

    prompts: Int[Array, "problem prefix"]
    lengths: Int[Array, " problem"]
    end_tokens: Int[Array, " end"]
    size: int = eqx.field(static=True)
    vocab_size: int = eqx.field(static=True, default=50)
    max_prompt_length: int = eqx.field(static=True, default=5)
    max_completion_length: int = eqx.field(static=True, default=6)
    max_turns: int = eqx.field(static=True, default=1)

    def problem(self, index):
        return index, Prompt(self.prompts[index], self.lengths[index])

    def step(self, state, turn):
        right = jnp.sum(turn.tokens) % 2 == state % 2
        rewards = {"correct": right.astype(float), "half": jnp.asarray(0.5)}
        return state, TimeStep(
            jnp.zeros(0, jnp.int32), jnp.asarray(0), rewards, jnp.asarray(True)
        )


def parity_env(size: int = 7, seed: int = 0) -> ParityEnv:
    draw = np.random.default_rng(seed)
    return ParityEnv(
        prompts=jnp.asarray(draw.integers(0, 50, (size, 5)), jnp.int32),
        lengths=jnp.asarray(draw.integers(1, 6, size), jnp.int32),
        end_tokens=jnp.arange(12, dtype=jnp.int32),
        size=size,
    )


@eqx.filter_jit
def likeliest(policy, row, length):
    return jnp.argmax(logits(policy, row)[length - 1])


def greedy_by_hand(policy, env, index: int) -> tuple[list[int], bool]:
    """One problem, token by token, with nothing but whole-sequence logits."""
    length = int(env.lengths[index])
    row = np.zeros(11, np.int32)  # What follows a token does not change its logits.
    row[:length] = env.prompts[index, :length]
    for place in range(length, length + env.max_completion_length):
        row[place] = likeliest(policy, jnp.asarray(row), jnp.asarray(place))
        if row[place] in range(12):
            return row[length : place + 1].tolist(), True
    return row[length : place + 1].tolist(), False


@pytest.mark.parametrize(("batch", "slots"), [(3, None), (7, 2), (64, None)])
def test_equals_a_python_loop(batch, slots):
    policy, env = transformer(), parity_env()
    got = evaluate(policy, env, sampler=Greedy(), batch=batch, slots=slots, key=KEY)
    expected = [greedy_by_hand(policy, env, index) for index in range(env.size)]
    right = [sum(said) % 2 == index % 2 for index, (said, _) in enumerate(expected)]
    assert got.count == env.size
    assert got.right[:, 0].tolist() == right
    assert got.accuracy == pytest.approx(sum(right) / env.size)
    assert got.interval == wilson(sum(right), env.size)
    assert got.lengths[:, 0].tolist() == [len(said) for said, _ in expected]
    assert got.terminated[:, 0].tolist() == [ended for _, ended in expected]
    assert got.clipped_ratio == pytest.approx(
        sum(not ended for _, ended in expected) / env.size
    )
    for index, (said, _) in enumerate(expected):
        assert got.tokens[index, 0, : len(said)].tolist() == said
        assert not np.any(got.tokens[index, 0, len(said) :])
        prompt = env.prompts[index, : env.lengths[index]]
        assert got.prompts[index].tolist() == prompt.tolist()
    assert set(got.rewards) == {"correct", "half"}
    assert np.all(got.rewards["half"] == 0.5)


def test_the_first_problems_are_those_of_the_whole():
    policy, env = transformer(), parity_env()
    few = evaluate(policy, env, sampler=Greedy(), problems=4, batch=3, key=KEY)
    whole = evaluate(policy, env, sampler=Greedy(), batch=3, key=KEY)
    assert few.count == 4
    assert np.array_equal(few.tokens, whole.tokens[:4])


def test_samples_of_a_problem_differ_and_the_key_decides():
    policy, env = transformer(), parity_env()
    draw = lambda key: evaluate(policy, env, samples=5, batch=4, key=key)
    one, again, other = draw(KEY), draw(KEY), draw(jr.key(1))
    assert one.right.shape == (7, 5) and one.count == 35
    assert np.array_equal(one.tokens, again.tokens)
    assert not np.array_equal(one.tokens, other.tokens)
    assert any(len({tuple(row) for row in rows}) > 1 for rows in one.tokens.tolist())


def test_it_compiles_once_for_any_number_of_batches():
    traces = 0

    class Counting(Categorical):
        def __call__(self, logits, *, key):
            nonlocal traces
            traces += 1
            return super().__call__(logits, key=key)

    policy, env = transformer(), parity_env()
    evaluate(policy, env, sampler=Counting(), problems=2, batch=2, key=KEY)
    once, traces = traces, 0
    got = evaluate(policy, env, sampler=Counting(), batch=2, key=KEY)
    assert traces == 0 < once
    assert got.count == 7


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"problems": 8}, "between 1 and the 7 .* Received 8"),
        ({"problems": 0}, "between 1 and the 7 .* Received 0"),
        ({"samples": 0}, "samples must be a positive integer. Received 0"),
        ({"batch": -1}, "batch must be a positive integer. Received -1"),
        ({"slots": 0}, "slots must be a positive integer"),
        ({"success": "right"}, r"Received 'right'; .* \['correct', 'half'\]"),
    ],
)
def test_what_does_not_fit_is_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        evaluate(transformer(), parity_env(), key=KEY, **sizes)
