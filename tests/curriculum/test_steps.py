"""A curriculum in a step: scanned, batched, on two devices, stopped and resumed."""

import dataclasses

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import grpojax
from grpojax import curriculum, reward, RolloutConfig, runs, sharding, TrainStep

from ..helpers import count_env
from ..update.doubles import bigram
from .numbered import numbered_env


ENV = numbered_env()
OPTIMIZER = optax.adam(3e-3)
EPOCHS = curriculum.ShuffledEpochs()
STEP = TrainStep(
    ENV, OPTIMIZER, rollout=RolloutConfig(prompts=4, group=2), curriculum=EPOCHS
)
change = dataclasses.replace


def start(chosen=EPOCHS, seed=0):
    memory = None if chosen is None else chosen.init(ENV)
    return grpojax.init(
        bigram(vocab=50), optimizer=OPTIMIZER, key=jr.key(seed), curriculum=memory
    )


def with_pass_rates() -> TrainStep:
    """A curriculum that follows the rewards."""
    chosen = curriculum.Learnability(component="target", column="level", floor=0.3)
    return change(STEP, curriculum=chosen)


def take(step, state, count: int):
    """The state after some steps, and their problems in order."""

    @eqx.filter_jit
    def call(step, state):
        experience = step.collect(state)
        state, _ = step.learn(state, experience)
        return state, experience.trajectory.problems

    problems = []
    for _ in range(count):
        state, asked = call(step, state)
        problems += asked.tolist()
    return state, problems


def assert_epochs(problems):
    assert len(problems) >= 2 * ENV.size
    for first in range(0, len(problems) - ENV.size + 1, ENV.size):
        assert sorted(problems[first : first + ENV.size]) == list(range(ENV.size))


def test_steps_ask_every_problem_once_per_epoch():
    """Four prompts do not divide seven problems: an epoch runs on over steps."""
    state, problems = take(STEP, start(), 4)
    assert_epochs(problems)
    assert problems[:7] != problems[7:14]
    assert (state.curriculum.epoch.item(), state.curriculum.position.item()) == (2, 2)


def test_epochs_of_rollouts_that_are_sampled_ahead():
    """Each problem once per epoch, however many steps before it is drawn."""
    _, plain = take(STEP, start(), 6)
    stale = change(STEP, rollout=change(STEP.rollout, staleness=2))
    state, problems = take(stale, stale.init(bigram(vocab=50), key=jr.key(0)), 4)
    assert problems == plain[: len(problems)]
    partial = change(STEP, rollout=change(STEP.rollout, partial_prompts=8))
    state, problems = take(partial, partial.init(bigram(vocab=50), key=jr.key(0)), 4)
    # Which are complete first depends on their lengths.
    drawn = problems + state.partial.drawn.problems.tolist()
    assert sorted(drawn) == sorted(plain)


@pytest.mark.skipif(len(jax.devices()) < 2, reason="needs two devices")
@pytest.mark.parametrize(
    "step",
    [STEP, pytest.param(with_pass_rates(), marks=pytest.mark.slow)],
    ids=["epochs", "rates"],
)
def test_two_devices_ask_what_one_asks(step):
    state, problems = take(step, start(step.curriculum), 4)
    mesh = sharding.make_mesh(fsdp=2, devices=jax.devices()[:2])
    with jax.set_mesh(mesh):
        placed, found = take(step, sharding.place(start(step.curriculum), mesh), 4)
    assert found == problems
    chex.assert_trees_all_equal(placed.curriculum, state.curriculum)
    for leaf in jax.tree.leaves(placed.curriculum):
        assert leaf.sharding.is_fully_replicated
    if step is STEP:
        assert_epochs(found)


@pytest.mark.slow
def test_scanned_and_batched_steps_are_single_steps():
    step = with_pass_rates()

    def run(key):
        state = eqx.tree_at(lambda s: s.key, start(step.curriculum), key)
        return grpojax.train(state, step, steps=3)

    keys = jr.split(jr.key(5), 2)
    states, metrics = eqx.filter_jit(eqx.filter_vmap(run))(keys)
    for lane, key in enumerate(keys):
        state = eqx.tree_at(lambda s: s.key, start(step.curriculum), key)
        state, _ = take(step, state, 3)
        memory = jax.tree.map(lambda x, lane=lane: x[lane], states.curriculum)
        chex.assert_trees_all_close(memory, state.curriculum, rtol=1e-6)
    assert metrics["reward"][0].tolist() != metrics["reward"][1].tolist()


def test_uniform_is_a_step_without_a_curriculum_bit_for_bit():
    uniform = curriculum.Uniform()
    state, problems = take(change(STEP, curriculum=uniform), start(uniform), 2)
    same, drawn = take(change(STEP, curriculum=None), start(None), 2)
    assert problems == drawn
    chex.assert_trees_all_equal(change(state, curriculum=None), same)


def digits(prompts, completions, **_):
    """A reward on the host, so that a step is two programs."""
    del prompts
    return [float("7" in text) for text in completions]


@pytest.mark.parametrize(
    ("step", "on_host"),
    [(STEP, True), pytest.param(with_pass_rates(), False, marks=pytest.mark.slow)],
    ids=["two", "one"],
)
def test_a_run_that_was_stopped_goes_on_with_its_epoch(tmp_path, step, on_host):
    """As one program, or as two with a reward on the host between them."""
    if on_host:
        seven = reward.HostReward(digits, repr, name="seven")
        step = change(step, reward=reward.WeightedSum({"seven": 1.0}, seven))
    fit = lambda steps, out, **more: grpojax.fit(
        start(step.curriculum),
        step,
        steps=steps,
        out=tmp_path / out,
        checkpoint=runs.Checkpointing(every=1),
        **more,
    )
    fit(3, "run")  # Epoch 1, position 5.
    resumed, full = fit(5, "run", resume=True), fit(5, "full")
    chex.assert_trees_all_equal(resumed, full)
    rewards = [
        [line.split('"reward": ')[1].split(",")[0] for line in lines.splitlines()]
        for lines in (
            (tmp_path / out / "metrics.jsonl").read_text() for out in ("run", "full")
        )
    ]
    assert rewards[0] == rewards[1] and len(rewards[0]) == 5


def test_another_curriculum_is_refused_on_resume(tmp_path):
    fit = lambda step, **more: grpojax.fit(
        start(step.curriculum), step, steps=1, out=tmp_path / "run", **more
    )
    fit(STEP)
    with pytest.raises(ValueError, match="`curriculum.name` was 'ShuffledEpochs'"):
        fit(with_pass_rates(), resume=True)


def test_a_run_from_before_there_were_curricula_resumes(tmp_path):
    """Its configuration has no such key."""
    step = change(STEP, curriculum=None)
    fit = lambda steps, **more: grpojax.fit(
        start(None), step, steps=steps, out=tmp_path / "run", **more
    )
    fit(1)
    assert "curriculum" not in (tmp_path / "run" / "config.yaml").read_text()
    assert int(fit(2, resume=True).version) == 2


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="without one for ShuffledEpochs: pass"):
        STEP(start(None))
    other = change(STEP, env=count_env())
    with pytest.raises(ValueError, match="numbered problems. Received CountEnv"):
        other(start())


@pytest.mark.slow
def test_metrics_of_a_step_are_split_by_task():
    tasks = {"a": 3, "b": 4}
    state, step = start(), change(STEP, rollout=RolloutConfig(prompts=3, group=2))
    experience = step.collect(state)
    trajectory, rewards = experience.trajectory, experience.rewards
    assert not [name for name in experience.metrics if name.endswith(("/a", "/b"))]
    trajectory = change(trajectory, problems=jnp.array([1, 5, 6]))
    metrics = grpojax.measure(trajectory, rewards, tasks)
    total, lengths = np.asarray(rewards.total), np.asarray(rewards.lengths)
    found = {name: x for name, x in metrics.items() if name.endswith(("/a", "/b"))}
    expected = {
        "prompts/a": 1,
        "prompts/b": 2,
        "reward/a": total[0].mean(),
        "reward/b": total[1:].mean(),
        "completions/mean_length/a": lengths[0].mean(),
        "completions/mean_length/b": lengths[1:].mean(),
    }
    assert found == pytest.approx(expected, rel=1e-6)
    trajectory = change(trajectory, problems=jnp.array([0, 1, 2]))
    metrics = grpojax.measure(trajectory, rewards, tasks)
    assert metrics["prompts/b"] == 0 and np.isnan(metrics["reward/b"])
