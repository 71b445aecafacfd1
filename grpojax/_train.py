"""The train step: rollout, reward, advantage and update as one pure function."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from jaxtyping import Array, Bool, Float, Key

from . import advantage, reward as rewards_phase, sharding, validation
from ._checks import check_counts, check_instances, check_parts
from ._measure import measure
from .algorithms import Algorithm, grpo
from .env import AbstractEnvironment
from .policy import AbstractPolicy
from .reward import RewardFn, WeightedSum
from .rollout import generate, RolloutConfig
from .types import Metrics, Rewards, TrainState, Trajectory
from .update import Batch, improve, LossWeights, Reference, UpdateConfig


def init(
    policy: AbstractPolicy,
    *,
    optimizer: optax.GradientTransformation,
    reference: Reference | None = None,
    key: Key[Array, ""],
) -> TrainState:
    """The initial train state.

    **Arguments:**

    - `policy`: the arrays that `policy.trainable()` selects are trained.
    - `optimizer`: an optax transformation; pass the same one to `train_step`.
    - `reference`: the frozen reference policy of a KL penalty, or a function that
        derives it from the trained policy, such as `models.without_adapters`, at no
        memory cost.
    - `key`: root PRNG key; each step uses `fold_in(key, version)`.

    **Raises:** `ValueError` if no array of the policy is trainable.
    """
    check_instances("init", policy=policy, optimizer=optimizer, key=key)
    params = eqx.filter(policy, policy.trainable())
    if not jax.tree.leaves(params) and jax.tree.leaves(policy):
        raise ValueError(
            "A step trains some of a policy's arrays. Received a policy that is frozen "
            "entirely: weights in 8 bits need adapters, `models.lora`."
        )
    if reference is not None and not isinstance(reference, AbstractPolicy):
        # A pytree node, so that all leaves of the state are arrays.
        reference = jax.tree_util.Partial(reference)
    return TrainState(
        policy=policy,
        opt_state=optimizer.init(params),
        reference=reference,
        version=jnp.zeros((), jnp.int32),
        key=key,
    )


class Experience(eqx.Module):
    """A rollout with rewards and advantages: the output of `collect`.

    **Fields:**

    - `trajectory`, `rewards`: of the prompts selected for training.
    - `advantages`: per row, or per token.
    - `keep`: mask of the rows that contribute to the loss.
    - `metrics`: rollout metrics over all sampled prompts, before selection.
    """

    trajectory: Trajectory
    rewards: Rewards
    advantages: Float[Array, "prompt group *time"]
    keep: Bool[Array, "prompt group"]
    metrics: Metrics


def collect(
    state: TrainState,
    env: AbstractEnvironment,
    algorithm: Algorithm = grpo(),
    *,
    rollout: RolloutConfig,
    reward: RewardFn = WeightedSum(),
    validate: bool = False,
    trajectory: Trajectory | None = None,
) -> Experience:
    """Samples completions, and computes rewards and advantages.

    The arguments are those of `train_step`; a `trajectory` replaces the rollout.
    """
    check_instances("collect", algorithm=algorithm)
    if trajectory is None:
        trajectory = _generate(state, env, rollout)
    with jax.named_scope("reward"):
        rewards = rewards_phase.checked(reward, trajectory)
        # Barrier: stops XLA from fusing across the reward, so that host and in-graph
        # rewards give bit-identical updates.
        rewards = jax.lax.optimization_barrier(rewards)
        metrics = measure(trajectory, rewards)
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
    return Experience(trajectory, rewards, advantages, keep, metrics)


def _generate(
    state: TrainState, env: AbstractEnvironment, config: RolloutConfig
) -> Trajectory:
    key = jr.fold_in(state.key, state.version)
    with jax.named_scope("rollout"):
        made = generate(state.policy, env, config, version=state.version, key=key)
    # Barrier: `fit` ends a program here if the reward runs Python.
    return jax.lax.optimization_barrier(made)


def learn(
    state: TrainState,
    experience: Experience,
    optimizer: optax.GradientTransformation,
    algorithm: Algorithm = grpo(),
    *,
    update: UpdateConfig = UpdateConfig(),
    validate: bool = False,
) -> tuple[TrainState, Metrics]:
    """Updates the policy on collected experience.

    The arguments are as in `train_step`, with `experience` collected from `state`.

    **Returns:** the next state, and the metrics of the whole step, including those
    of `collect`.
    """
    check_instances("learn", algorithm=algorithm)

    def check(batch: Batch, weights: LossWeights) -> Batch:
        names = "behavior", "reference", "old"
        known = {name: x for name in names if (x := getattr(batch, name)) is not None}
        mask, *_ = validation.validate(
            (batch.mask, weights.token, batch.advantage, known),
            stage="train_step" if batch.old is None else "train_ready",
            step=state.version + 1,
        )
        return dataclasses.replace(batch, mask=mask)

    with jax.named_scope("update"):
        policy, opt_state, metrics = improve(
            state.policy,
            state.opt_state,
            experience.trajectory,
            experience.advantages,
            experience.keep,
            objective=algorithm.objective,
            optimizer=optimizer,
            reference=state.reference,
            config=update,
            validate=check if validate else None,
        )
    version = state.version + 1
    state = TrainState(policy, opt_state, state.reference, version, state.key)
    return sharding.constrain(state), {**experience.metrics, **metrics}


def train_step(
    state: TrainState,
    env: AbstractEnvironment,
    optimizer: optax.GradientTransformation,
    algorithm: Algorithm = grpo(),
    *,
    rollout: RolloutConfig,
    update: UpdateConfig = UpdateConfig(),
    reward: RewardFn = WeightedSum(),
    validate: bool = False,
) -> tuple[TrainState, Metrics]:
    """One GRPO step: `collect`, then `learn`.

    **Arguments:**

    - `state`: from `init`, or from the step before.
    - `env`: draws prompts, replies to turns and computes reward components.
    - `optimizer`: the optax transformation that was passed to `init`.
    - `algorithm`: advantage estimator, row selection and loss; see
        `grpojax.algorithms`.
    - `rollout`: batch sizes and sampler.
    - `update`: epochs, minibatches and microbatches.
    - `reward`: combines the reward components; see `grpojax.reward`.
    - `validate`: whether to check every phase's outputs at run time; see
        `grpojax.validate`.

    **Returns:** the next state, and metrics as scalars on the device.

    **Raises:** `TypeError` if the reward function does not return `Rewards`, and
    `ValueError` for incompatible sizes, both while tracing.
    """
    experience = collect(
        state, env, algorithm, rollout=rollout, reward=reward, validate=validate
    )
    return learn(
        state, experience, optimizer, algorithm, update=update, validate=validate
    )


class TrainStep(eqx.Module):
    """`train_step` with all arguments but the state bound: state -> (state, metrics).

        step(state) == train_step(state, step.env, step.optimizer, step.algorithm, ...)

    It is a pytree: under `eqx.filter_jit` the arrays of the environment, algorithm and
    reward are inputs of the compiled program, not constants.

    **Fields:** the arguments of `train_step`, except `state`.

    !!! example

        ```python
        step = TrainStep(env, optimizer, rollout=RolloutConfig(prompts=8, group=8))
        state, metrics = eqx.filter_jit(step)(state)
        ```
    """

    env: AbstractEnvironment
    optimizer: optax.GradientTransformation
    algorithm: Algorithm = grpo()
    rollout: RolloutConfig = eqx.field(kw_only=True)
    update: UpdateConfig = eqx.field(kw_only=True, default=UpdateConfig())
    reward: RewardFn = eqx.field(kw_only=True, default=WeightedSum())
    validate: bool = eqx.field(kw_only=True, static=True, default=False)

    def __check_init__(self):
        check_instances("TrainStep", **vars(self))
        check_parts("TrainStep", reward=self.reward)

    def __call__(self, state: TrainState) -> tuple[TrainState, Metrics]:
        """One train step: the next state, and the step's metrics."""
        return self.learn(state, self.collect(state))

    def generate(self, state: TrainState) -> Trajectory:
        """The rollout of a step."""
        return _generate(state, self.env, self.rollout)

    def collect(
        self, state: TrainState, trajectory: Trajectory | None = None
    ) -> Experience:
        """The first half of a step: rollout, if not given, rewards and advantages."""
        given: Any = {x: vars(self)[x] for x in ("rollout", "reward", "validate")}
        return collect(state, self.env, self.algorithm, **given, trajectory=trajectory)

    def learn(
        self, state: TrainState, experience: Experience
    ) -> tuple[TrainState, Metrics]:
        """The second half of a step: the policy update."""
        given: Any = {x: vars(self)[x] for x in ("update", "validate")}
        return learn(state, experience, self.optimizer, self.algorithm, **given)


def train(
    state: TrainState,
    step: Callable[[TrainState], tuple[TrainState, Metrics]],
    *,
    steps: int,
) -> tuple[TrainState, dict[str, Float[Array, " step"]]]:
    """`steps` train steps under `lax.scan`, without host round trips.

    **Arguments:**

    - `state`: from `init`.
    - `step`: a `TrainStep`, or any function `state -> (state, metrics)`.
    - `steps`: number of steps.

    **Returns:** the state after the last step, and every step's metrics, stacked.

    **Raises:** `ValueError` for a negative number of steps.
    """
    check_counts("train", 0, steps=steps)
    arrays, static = eqx.partition(state, eqx.is_array)

    def body(arrays, _):
        state, metrics = step(eqx.combine(arrays, static))
        return eqx.filter(state, eqx.is_array), metrics

    arrays, metrics = jax.lax.scan(body, arrays, length=steps)
    return eqx.combine(arrays, static), metrics
