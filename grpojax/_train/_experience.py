"""The first half of a step: rollout, rewards and advantages."""

from collections.abc import Mapping

import equinox as eqx
import jax
import jax.random as jr
from jaxtyping import Array, Bool, Float, PyTree

from .. import advantage, reward as rewards_phase, validation
from .._checks import check_instances
from .._measure import measure
from ..algorithms import Algorithm, grpo
from ..curriculum import AbstractCurriculum
from ..env import AbstractDatasetEnvironment, AbstractEnvironment
from ..reward import RewardFn, WeightedSum
from ..rollout import generate, RolloutConfig
from ..sharding import spmd
from ..types import Metrics, Rewards, TrainState, Trajectory


class Experience(eqx.Module):
    """A rollout with rewards and advantages: the output of `collect`.

    **Fields:**

    - `trajectory`, `rewards`: of the prompts selected for training.
    - `advantages`: per row, or per token.
    - `keep`: mask of the rows that contribute to the loss.
    - `metrics`: rollout metrics over all sampled prompts, before selection.
    - `curriculum`: the curriculum's memory after it has observed all of them.
    """

    trajectory: Trajectory
    rewards: Rewards
    advantages: Float[Array, "prompt group *time"]
    keep: Bool[Array, "prompt group"]
    metrics: Metrics
    curriculum: PyTree = None


def collect(
    state: TrainState,
    env: AbstractEnvironment,
    algorithm: Algorithm = grpo(),
    *,
    rollout: RolloutConfig,
    reward: RewardFn = WeightedSum(),
    curriculum: AbstractCurriculum | None = None,
    validate: bool = False,
    trajectory: Trajectory | None = None,
) -> Experience:
    """Samples completions, and computes rewards and advantages.

    The arguments are those of `train_step`; a `trajectory` replaces the rollout.
    """
    check_instances("collect", algorithm=algorithm)
    if trajectory is None:
        trajectory = sample(state, env, rollout, curriculum)
    with jax.named_scope("reward"):
        rewards = rewards_phase.checked(reward, trajectory)
        # Barrier: stops XLA from fusing across the reward, so that host and in-graph
        # rewards give bit-identical updates.
        rewards = jax.lax.optimization_barrier(rewards)
        metrics = measure(trajectory, rewards, _tasks(env))
    memory = state.curriculum
    if curriculum is not None and trajectory.problems is not None:
        with jax.named_scope("curriculum"):
            # Replicated, as the memory is: no device sums in an order of its own.
            seen = spmd.replicate((trajectory.problems, rewards))
            memory = curriculum.observe(memory, *seen)
    with jax.named_scope("advantage"):
        if rollout.train_prompts is not None:
            trajectory, rewards = advantage.take_nonzero_variance(
                trajectory, rewards, count=rollout.train_prompts
            )
        advantages = algorithm.advantage(rewards)
        keep = algorithm.select(rewards)
    if validate:
        made = trajectory, rewards, advantages
        trajectory, rewards, advantages = validation.validate(
            made, stage="advantaged", step=state.version + 1
        )
    return Experience(trajectory, rewards, advantages, keep, metrics, memory)


def sample(
    state: TrainState,
    env: AbstractEnvironment,
    config: RolloutConfig,
    curriculum: AbstractCurriculum | None,
) -> Trajectory:
    """The rollout of a step, on the problems that the curriculum draws."""
    problems = None
    if curriculum is not None:
        _check_memory(state, env, curriculum)
        with jax.named_scope("curriculum"):
            problems = curriculum.draw(
                state.curriculum, state.key, state.version, config.prompts
            )
    key = jr.fold_in(state.key, state.version)
    with jax.named_scope("rollout"):
        made = generate(
            state.policy,
            env,
            config,
            problems=problems,
            version=state.version,
            key=key,
        )
    # Barrier: `fit` ends a program here if the reward runs Python.
    return jax.lax.optimization_barrier(made)


def _tasks(env: AbstractEnvironment) -> Mapping[str, int]:
    return env.tasks if isinstance(env, AbstractDatasetEnvironment) else {}


def _check_memory(
    state: TrainState, env: AbstractEnvironment, curriculum: AbstractCurriculum
):
    if not isinstance(env, AbstractDatasetEnvironment):
        raise ValueError(
            "A curriculum chooses among numbered problems. Received "
            f"{type(env).__name__}, whose `reset` makes its own: derive it from "
            "`AbstractDatasetEnvironment`, or leave `curriculum` out."
        )
    if state.curriculum is None:
        raise ValueError(
            "A curriculum's memory is part of the train state. Received a state "
            f"without one for {type(curriculum).__name__}: pass "
            "`curriculum=curriculum.init(env)` to `grpojax.init`."
        )
