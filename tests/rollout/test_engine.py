"""Laws of the rollout."""

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from grpojax import policy as policies, rollout
from grpojax.models.transformer._decoder import Decoder
from grpojax.types import Prompt

from ..helpers import count_env, transformer, UniformPolicy


SINGLE = count_env()
TWO = count_env(max_turns=2, reply_length=3, max_completion_length=16)
one_or_two_turns = pytest.mark.parametrize(
    "env",
    [pytest.param(SINGLE, marks=pytest.mark.slow), TWO],
    ids=["one turn", "two turns"],
)
compiled = eqx.filter_jit(rollout.generate)


def generate(policy, env, *, key, **sizes):
    """`rollout.generate`, compiled; `sizes` are the fields of `RolloutConfig`."""
    return compiled(policy, env, rollout.RolloutConfig(**sizes), key=key)


@eqx.filter_jit
def teacher_forced(policy, trajectory):
    def row(prompt, tokens):
        temperature = trajectory.temperature
        return policies.log_prob(policy, prompt, tokens, temperature=temperature)

    group = jax.vmap(row, in_axes=(None, 0))
    return jax.vmap(group)(trajectory.prompt, trajectory.tokens)


@pytest.mark.laws
@pytest.mark.parametrize(
    "family, env",
    [
        pytest.param("llama", SINGLE, marks=pytest.mark.slow),
        pytest.param("qwen2", SINGLE, marks=pytest.mark.slow),
        ("qwen3", SINGLE),
        ("llama", TWO),
    ],
    ids=["llama", "qwen2", "qwen3", "two turns"],
)
def test_recorded_log_prob_equals_teacher_forced(family, env):
    policy = transformer(family)
    for seed, temperature in ((0, 1.0), (1, 0.7), (2, 1.5)):
        temperature = jnp.asarray(temperature)
        sampler = rollout.Categorical(temperature)
        trajectory = generate(
            policy, env, prompts=3, group=4, slots=5, sampler=sampler, key=jr.key(seed)
        )
        assert trajectory.temperature == temperature
        exact = teacher_forced(policy, trajectory)
        gap = jnp.where(trajectory.sampled, exact - trajectory.log_prob, 0)
        assert float(jnp.abs(gap).max()) <= 1e-5
        assert not trajectory.log_prob[~trajectory.sampled].any()


LONG = count_env(ends=(-1,), max_prompt_length=200, max_completion_length=300)


@pytest.mark.slow
@pytest.mark.laws
@pytest.mark.parametrize("cache_dtype", ["float32", "int8"])
def test_the_laws_where_caches_have_several_blocks(cache_dtype):
    """Prompts and rows of which some take one block of columns, and some three."""
    policy = transformer(cache_dtype=cache_dtype)
    limits = jnp.array([[300, 3, 140], [20, 270, 129]])
    sizes = dict(prompts=2, group=3, limits=limits, key=jr.key(3))
    full = generate(policy, LONG, **sizes)
    some = generate(policy, LONG, slots=2, **sizes)
    np.testing.assert_array_equal(full.tokens, some.tokens)
    assert int(full.lengths.max()) > 256
    assert float(jnp.abs(full.log_prob - some.log_prob).max()) <= 1e-5
    if cache_dtype == "float32":
        gap = jnp.where(full.sampled, teacher_forced(policy, full) - full.log_prob, 0)
        assert float(jnp.abs(gap).max()) <= 1e-5


LONG_TWO = count_env(max_turns=2, reply_length=70, max_completion_length=300)


@pytest.mark.laws
@pytest.mark.parametrize(
    "env, cache_dtype, reads_pages",
    [
        pytest.param(LONG, "float32", True, marks=pytest.mark.slow),
        pytest.param(LONG, "int8", True, marks=pytest.mark.slow),
        (LONG_TWO, "float32", False),
    ],
    ids=["float32", "int8", "joined pages, two turns"],
)
def test_the_same_tokens_in_a_cache_of_any_size(
    env, cache_dtype, reads_pages, monkeypatch
):
    """Rows that find no page start again, and nothing is left of their first try."""
    monkeypatch.setattr(Decoder, "reads_pages", reads_pages)
    policy = transformer(cache_dtype=cache_dtype)
    ends = env.end_tokens if env is LONG else jnp.asarray([-1])
    env = eqx.tree_at(lambda x: x.end_tokens, env, ends)
    limits = jnp.array([[300, 3, 280], [20, 300, 200]])
    sizes = dict(prompts=2, group=3, limits=limits, key=jr.key(3))
    full = generate(policy, env, **sizes)
    for slots in (6, 3):
        some = generate(policy, env, slots=slots, cache_tokens=256, **sizes)
        for name in ("tokens", "sampled", "version", "terminated", "rewards"):
            chex.assert_trees_all_equal(getattr(full, name), getattr(some, name))
        # A last bit may decide how a key is rounded to 8 bits.
        tolerance = 1e-3 if cache_dtype == "int8" else 1e-5
        assert float(jnp.abs(full.log_prob - some.log_prob).max()) <= tolerance


@pytest.mark.slow
def test_a_longer_horizon_and_wider_prompts_change_no_token():
    policy, length = transformer(), jnp.array([5, 130])
    tokens = jr.randint(jr.key(2), (2, 200), 0, 50)

    def complete(horizon: int, width: int):
        env = count_env(max_prompt_length=width, max_completion_length=horizon)
        prompts = Prompt(tokens[:, :width], length)
        states, options = jnp.zeros(2, jnp.int32), dict(group=3, slots=2)
        return eqx.filter_jit(rollout.complete)(
            policy, env, states, prompts, **options, key=jr.key(5)
        )

    short, long = complete(40, 140), complete(500, 200)
    inside = short.sampled
    np.testing.assert_array_equal(
        jnp.where(inside, short.tokens, 0), jnp.where(inside, long.tokens[..., :40], 0)
    )
    gap = jnp.where(inside, short.log_prob - long.log_prob[..., :40], 0)
    assert float(jnp.abs(gap).max()) <= 1e-5


@pytest.mark.laws
@one_or_two_turns
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**31), slots=st.sampled_from([1, 3, 11]))
def test_the_same_tokens_for_every_number_of_slots(env, seed, slots):
    policy = transformer()
    sizes = dict(prompts=3, group=4, key=jr.key(seed))
    full = generate(policy, env, **sizes)
    some = generate(policy, env, slots=slots, **sizes)
    for name in ("tokens", "sampled", "version", "terminated"):
        np.testing.assert_array_equal(getattr(full, name), getattr(some, name))
    assert float(jnp.abs(full.log_prob - some.log_prob).max()) <= 1e-5
    for name, reward in full.rewards.items():
        np.testing.assert_array_equal(reward, some.rewards[name])


@pytest.mark.slow
@pytest.mark.laws
def test_a_row_does_not_depend_on_its_batch():
    """The first prompts of a larger batch have the completions of a smaller one."""
    policy = transformer()
    keys = jax.vmap(lambda p: jr.fold_in(jr.key(3), p))(jnp.arange(4))
    states, prompts = jax.vmap(SINGLE.reset)(keys)
    head = lambda tree: jax.tree.map(lambda x: x[:2], tree)
    complete = eqx.filter_jit(rollout.complete)
    sizes = dict(group=3, key=jr.key(5))
    large = complete(policy, SINGLE, states, prompts, **sizes)
    small = complete(policy, SINGLE, head(states), head(prompts), **sizes)
    np.testing.assert_array_equal(large.tokens[:2], small.tokens)


@pytest.mark.laws
def test_a_split_batch_has_the_completions_of_one_batch():
    policy = transformer()
    keys = jax.vmap(lambda p: jr.fold_in(jr.key(3), p))(jnp.arange(5))
    states, prompts = jax.vmap(SINGLE.reset)(keys)
    complete = eqx.filter_jit(rollout.complete)
    sizes = dict(group=3, key=jr.key(5))
    full = complete(policy, SINGLE, states, prompts, **sizes)
    assert len({tuple(row) for row in full.tokens[:, 0].tolist()}) > 1
    for bounds in ((0, 2, 5), (0, 1, 4, 5)):
        for start, end in zip(bounds, bounds[1:], strict=False):
            some = jax.tree.map(lambda x, s=slice(start, end): x[s], (states, prompts))
            first = jnp.asarray(start)
            chunk = complete(policy, SINGLE, *some, first=first, **sizes)
            np.testing.assert_array_equal(chunk.tokens, full.tokens[start:end])


def test_nothing_is_sampled_after_the_end():
    trajectory = generate(transformer(), SINGLE, prompts=4, group=6, key=jr.key(1))
    tokens, sampled = np.asarray(trajectory.tokens), np.asarray(trajectory.sampled)
    ends = np.isin(tokens, SINGLE.end_tokens) & sampled
    assert trajectory.terminated.any() and not trajectory.terminated.all()
    for p, g in np.ndindex(4, 6):
        length = sampled[p, g].sum()
        assert sampled[p, g, :length].all()  # One run from the start ...
        assert not tokens[p, g, length:].any()  # ... and zeros after it.
        assert not ends[p, g, : length - 1].any()
        assert ends[p, g, length - 1] == trajectory.terminated[p, g]
        assert trajectory.terminated[p, g] or length == SINGLE.max_completion_length
        completion = tokens[p, g, :length]
        assert int(trajectory.rewards["target"][p, g]) == np.sum(completion == 7)
    np.testing.assert_array_equal(trajectory.version, np.where(sampled, 0, -1))


def test_a_first_token_may_end_a_row():
    """The trap of samplers that never test the first token."""
    env = count_env(ends=tuple(range(50)))
    sizes = dict(prompts=2, group=3, slots=2)
    trajectory = generate(transformer(), env, **sizes, key=jr.key(0))
    assert (trajectory.lengths == 1).all() and trajectory.terminated.all()


def test_end_token_is_sampled_even_when_it_is_zero_and_pads():
    """The trap of masks rebuilt from ids: pad == eos == 0."""
    env = count_env(ends=tuple(range(0, 50, 3)))
    trajectory = generate(transformer(), env, prompts=4, group=8, key=jr.key(0))
    last = trajectory.lengths[..., None] - 1
    at_end = jnp.take_along_axis(trajectory.tokens, last, axis=-1)[..., 0]
    zeros = trajectory.terminated & (at_end == 0)
    assert zeros.any()
    assert jnp.take_along_axis(trajectory.sampled, last, axis=-1).all()


def test_replies_are_forced_and_never_sampled():
    sizes = dict(prompts=4, group=8, slots=7)
    trajectory = generate(transformer(), TWO, **sizes, key=jr.key(0))
    tokens, sampled = np.asarray(trajectory.tokens), np.asarray(trajectory.sampled)
    time = TWO.max_completion_length
    two_turns = 0
    for p, g in np.ndindex(4, 8):
        row, mask = tokens[p, g], sampled[p, g]
        ends = np.flatnonzero(np.isin(row, TWO.end_tokens) & mask)
        if len(ends) == 0:
            assert mask.all() and not trajectory.terminated[p, g]
            continue
        first = ends[0] + 1
        reply = np.arange(first, min(first + 3, time))
        assert not mask[reply].any() and mask[:first].all()
        np.testing.assert_array_equal(row[reply], np.arange(len(reply)))
        rest = mask[first + 3 :]
        second = row[first + 3 :][rest]
        assert rest[: len(second)].all()
        assert trajectory.terminated[p, g] == (len(ends) > 1)
        turns = 1 + (len(second) > 0)
        two_turns += turns == 2
        assert trajectory.rewards["turns"][p, g] == turns
        assert int(trajectory.rewards["target"][p, g]) == np.sum(row[mask] == 7)
    assert two_turns > 5


def test_stepping_the_environment_after_the_loop_changes_nothing():
    """One turn, answered in the loop or after it, has the same rewards."""

    class ManyTurns(type(SINGLE)):
        """Declares several turns, and ends after the first."""

        def step(self, state, turn):
            state, answer = super().step(state, turn)
            return state, eqx.tree_at(lambda a: a.done, answer, jnp.array(True))

    fields = dict(end_tokens=SINGLE.end_tokens, target=SINGLE.target)
    sizes = dict(prompts=3, group=4, slots=5, key=jr.key(9))
    after = generate(transformer(), SINGLE, **sizes)
    inside = generate(transformer(), ManyTurns(**fields, max_turns=3), **sizes)
    np.testing.assert_array_equal(after.tokens, inside.tokens)
    np.testing.assert_array_equal(after.terminated, inside.terminated)
    for name, reward in after.rewards.items():
        np.testing.assert_array_equal(reward, inside.rewards[name])


def test_keys_differ_between_members_and_steps():
    """The traps of a reused key and of one seed for every call."""
    policy = UniformPolicy(vocab_size=50)
    env = count_env(ends=(0,), max_completion_length=20)
    first = generate(policy, env, prompts=2, group=4, key=jr.key(0))
    second = generate(policy, env, prompts=2, group=4, key=jr.key(1))
    rows = np.concatenate(
        [np.asarray(t.tokens).reshape(8, -1) for t in (first, second)]
    )
    assert len({tuple(row) for row in rows}) == 16
    assert len(set(rows[:, 0])) > 4  # First tokens too.


def test_uniform_policy_records_its_log_probability():
    policy = UniformPolicy(vocab_size=4)
    env = count_env(ends=(0,), target=1, vocab_size=4, max_completion_length=40)
    trajectory = generate(policy, env, prompts=8, group=16, slots=24, key=jr.key(0))
    tokens = np.asarray(trajectory.tokens)[np.asarray(trajectory.sampled)]
    recorded = trajectory.log_prob[trajectory.sampled]
    np.testing.assert_allclose(recorded, -np.log(4), rtol=1e-6)
    share = np.bincount(tokens, minlength=4) / len(tokens)
    # Rows end at token 0, so every share is 1/4: four standard errors.
    assert np.abs(share - 0.25).max() < 4 * np.sqrt(0.25 * 0.75 / len(tokens))


def test_greedy_takes_the_most_likely_token():
    policy, env = transformer(), count_env(ends=(1,))
    trajectory = generate(
        policy, env, prompts=2, group=2, sampler=rollout.Greedy(), key=jr.key(0)
    )
    np.testing.assert_array_equal(trajectory.tokens[:, 0], trajectory.tokens[:, 1])
    length = int(trajectory.prompt.length[0])
    completion = trajectory.tokens[0, 0, : int(trajectory.lengths[0, 0])]
    stream = jnp.concatenate([trajectory.prompt.tokens[0, :length], completion])
    likely = jnp.argmax(policies.logits(policy, stream), axis=-1)
    np.testing.assert_array_equal(completion, likely[length - 1 : -1])
    assert trajectory.temperature == 1


def test_early_exit_equals_running_to_the_horizon():
    """A longer horizon only adds to rows that the shorter one truncated."""
    policy = transformer()
    short = generate(policy, count_env(), prompts=3, group=4, key=jr.key(4))
    long = generate(
        policy, count_env(max_completion_length=30), prompts=3, group=4, key=jr.key(4)
    )
    cut = jnp.where(short.sampled, long.tokens[..., :12], 0)
    np.testing.assert_array_equal(short.tokens, cut)


@one_or_two_turns
def test_limits_are_each_rows_own_horizon(env):
    """A row is truncated, and its tokens are those of the row without a limit."""
    policy, time = transformer(), env.max_completion_length
    sizes = dict(prompts=3, group=4, key=jr.key(7))
    full = generate(policy, env, **sizes)
    limits = jr.randint(jr.key(8), (3, 4), -1, time + 3)
    for slots in (None, 5):
        some = generate(policy, env, limits=limits, slots=slots, **sizes)
        inside = jnp.arange(time) < jnp.clip(limits, 1, time)[..., None]
        np.testing.assert_array_equal(some.sampled, full.sampled & inside)
        kept = jnp.where(some.sampled, some.tokens, 0)
        np.testing.assert_array_equal(kept, jnp.where(some.sampled, full.tokens, 0))
        reached = jnp.any(full.sampled & ~inside, axis=-1)
        np.testing.assert_array_equal(some.terminated, full.terminated & ~reached)


def test_slots_do_the_work_of_the_tokens():
    """With refills the loop runs about total tokens / slots times."""
    policy = UniformPolicy(vocab_size=16)
    env = count_env(ends=(0,), vocab_size=16, max_completion_length=128)
    keys = jr.split(jr.key(0), 8)
    states, prompts = jax.vmap(env.reset)(keys)

    @eqx.filter_jit
    def iterations(slots):
        sizes = dict(group=16, slots=slots, key=jr.key(1))
        made = rollout.start(policy, env, states, prompts, **sizes)
        made = rollout.advance(made, policy)
        _, state = made.shards
        return state.iteration[0], state.completions.sampled.sum()

    longest = int(iterations(128)[0])
    count, tokens = map(int, iterations(8))
    assert count <= 1.3 * tokens / 8
    assert longest * 128 > 3 * count * 8  # Slot steps: a static batch wastes most.


@pytest.mark.parametrize(
    "sizes, words",
    [
        (dict(prompts=0, group=2), "prompts must be a positive integer"),
        (dict(prompts=2, group=-1), "group=-1"),
        (dict(prompts=2, group=2, slots=0), "slots=0"),
    ],
)
def test_sizes_are_checked_before_anything_is_traced(sizes, words):
    with pytest.raises(ValueError, match=words):
        rollout.RolloutConfig(**sizes)
    if "prompts" in words:
        return  # `complete` is given the prompts.
    states, prompts = jax.vmap(SINGLE.reset)(jr.split(jr.key(0), sizes.pop("prompts")))
    with pytest.raises(ValueError, match=words):
        rollout.complete(
            UniformPolicy(), SINGLE, states, prompts, key=jr.key(0), **sizes
        )


def test_an_environment_for_another_tokenizer_is_refused():
    config = rollout.RolloutConfig(prompts=1, group=1)
    with pytest.raises(ValueError, match="env.vocab_size=50 and policy.vocab_size=4"):
        rollout.generate(UniformPolicy(vocab_size=4), SINGLE, config, key=jr.key(0))


def test_prompt_is_kept_once_for_its_group():
    trajectory = generate(transformer(), SINGLE, prompts=3, group=5, key=jr.key(0))
    assert isinstance(trajectory.prompt, Prompt)
    assert trajectory.prompt.tokens.shape == (3, 6)
