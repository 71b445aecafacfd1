"""The train step: four phases, one pure function, one compiled program."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from jaxtyping import Array, Bool, Float, Key

from . import advantage, reward as rewards_phase, sharding, validation
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
    """The train state before the first step.

    **Arguments:**

    - `policy`: its arrays `policy.trainable()` are trained.
    - `optimizer`: the one that `train_step` will be given.
    - `reference`: a frozen policy for a KL penalty; or a function that extracts it from
        the trained policy, such as `models.without_adapters`, and takes no memory.
    - `key`: every random draw of the run is folded from it.

    **Raises:** `ValueError` if no array of the policy is trainable.
    """
    params = eqx.filter(policy, policy.trainable())
    if not jax.tree.leaves(params) and jax.tree.leaves(policy):
        raise ValueError(
            "A step trains some of a policy's arrays. Received a policy that is frozen "
            "entirely: weights in 8 bits need adapters, `models.lora`."
        )
    if reference is not None and not isinstance(reference, AbstractPolicy):
        # A function that is no leaf: all leaves of a state are arrays.
        reference = jax.tree_util.Partial(reference)
    return TrainState(
        policy=policy,
        opt_state=optimizer.init(params),
        reference=reference,
        version=jnp.zeros((), jnp.int32),
        key=key,
    )


class Experience(eqx.Module):
    """What `collect` hands to `learn`.

    **Fields:**

    - `trajectory`, `rewards`: of the prompts that are trained on.
    - `advantages`: of each row, or of each of its tokens.
    - `keep`: the rows that are trained on.
    - `metrics`: of the rollout, over all prompts.
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
) -> Experience:
    """Samples completions, and computes rewards and advantages.

    The arguments are those of `train_step`.
    """
    key = jr.fold_in(state.key, state.version)
    with jax.named_scope("rollout"):
        trajectory = generate(
            state.policy, env, rollout, version=state.version, key=key
        )
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
        trajectory, rewards, advantages = validation.validate(
            (trajectory, rewards, advantages),
            stage="advantaged",
            step=state.version + 1,
        )
    return Experience(trajectory, rewards, advantages, keep, metrics)


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

    The arguments are those of `train_step`, and what `collect` returned for the state.

    **Returns:** the next state, and the metrics of the step, those of `collect` among
    them.
    """

    def check(batch: Batch, weights: LossWeights) -> Batch:
        log_probs = {"behavior": batch.behavior, "reference": batch.reference}
        log_probs |= {"old": batch.old}
        known = {name: x for name, x in log_probs.items() if x is not None}
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
    next_state = TrainState(
        policy, opt_state, state.reference, state.version + 1, state.key
    )
    return sharding.constrain(next_state), {**experience.metrics, **metrics}


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
    - `env`: prompts, answers and rewards.
    - `optimizer`: an optax transformation, the one that `init` was given.
    - `algorithm`: from rewards to a gradient; see `grpojax.algorithms`.
    - `rollout`: how many completions are sampled, and how.
    - `update`: epochs, minibatches and microbatches.
    - `reward`: weighs the environment's components; see `grpojax.reward`.
    - `validate`: whether every phase's result is checked at run time; see
        `grpojax.validate`.

    **Returns:** the next state, and metrics as scalars on the device.

    **Raises:** `TypeError` for a reward function that returns no `Rewards`;
    `ValueError` for sizes that do not fit, before anything is compiled.
    """
    experience = collect(
        state, env, algorithm, rollout=rollout, reward=reward, validate=validate
    )
    return learn(
        state, experience, optimizer, algorithm, update=update, validate=validate
    )


class TrainStep(eqx.Module):
    """The arguments of `train_step` but the state, as one value: state -> state.

        step(state) == train_step(state, step.env, step.optimizer, step.algorithm, ...)

    It is a pytree: the arrays of the environment, of the algorithm and of the reward
    are arguments of a program that is compiled with it, and no constants.

    **Fields:** as the arguments of `train_step`.

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

    def __call__(self, state: TrainState) -> tuple[TrainState, Metrics]:
        """The next state, and the step's metrics."""
        return self.learn(state, self.collect(state))

    def collect(self, state: TrainState) -> Experience:
        """The first half of a step."""
        return collect(
            state,
            self.env,
            self.algorithm,
            rollout=self.rollout,
            reward=self.reward,
            validate=self.validate,
        )

    def learn(
        self, state: TrainState, experience: Experience
    ) -> tuple[TrainState, Metrics]:
        """The second half of a step."""
        return learn(
            state,
            experience,
            self.optimizer,
            self.algorithm,
            update=self.update,
            validate=self.validate,
        )


def train(
    state: TrainState, step: TrainStep, *, steps: int
) -> tuple[TrainState, dict[str, Float[Array, " step"]]]:
    """`steps` train steps under `lax.scan`, without a return to the host.

    **Arguments:**

    - `state`: from `init`.
    - `step`: such as a `TrainStep`, or any function of a state.
    - `steps`: how many.

    **Returns:** the state after the last step, and every step's metrics, stacked.

    **Raises:** `ValueError` for a negative number of steps.
    """
    if steps < 0:
        raise ValueError(f"train: steps must not be negative. Received {steps}.")
    arrays, static = eqx.partition(state, eqx.is_array)

    def body(arrays, _):
        state, metrics = step(eqx.combine(arrays, static))
        return eqx.filter(state, eqx.is_array), metrics

    arrays, metrics = jax.lax.scan(body, arrays, length=steps)
    return eqx.combine(arrays, static), metrics
