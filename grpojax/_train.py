"""The step: four arrows, one pure function, one compiled program."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Key

from . import (
    advantage,
    reward as reward_phase,
    rollout,
    sharding,
    update,
    validation,
)
from ._measure import measure
from .algorithms import Algorithm, grpo
from .env import AbstractEnvironment
from .policy import AbstractPolicy
from .types import Metrics, Rewards, TrainState, Trajectory


def init(
    policy: AbstractPolicy,
    *,
    optimizer: optax.GradientTransformation,
    reference: update.Reference | None = None,
    key: Key[Array, ""],
) -> TrainState:
    """The state before the first step.

    **Arguments:**

    - `policy`: what is trained: those of its arrays that are `policy.trainable()`.
    - `optimizer`: the one that `train_step` will be given.
    - `reference`: a frozen policy for a KL penalty; or a function that finds it in the
        policy that is trained, such as `models.without_adapters`, and takes no memory.
    - `key`: every random draw of the run is folded from it.

    **Raises:** `ValueError` if nothing of the policy is trained.
    """
    params = eqx.filter(policy, policy.trainable())
    if not jax.tree.leaves(params) and jax.tree.leaves(policy):
        raise ValueError(
            "A step trains some of a policy's arrays. Received a policy that is frozen "
            "as a whole: weights in 8 bits need adapters, `models.lora`."
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
    """What a step learns from.

    **Fields:**

    - `trajectory`: what was said; of `train_prompts` prompts, if there are fewer.
    - `rewards`: what it was paid.
    - `advantages`: how much better than its baseline a row did, or each of its tokens.
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
    *,
    env: AbstractEnvironment,
    algorithm: Algorithm = grpo(),
    reward: reward_phase.RewardFn = reward_phase.WeightedSum(),
    prompts: int,
    group: int,
    train_prompts: int | None = None,
    slots: int | None = None,
    limits: Int[ArrayLike, "prompt group"] | None = None,
    temperature: update.Number = 1.0,
    validate: bool = False,
) -> Experience:
    """The first half of a step: sample, pay, compare.

    The arguments are those of `train_step`.
    """
    key = jr.fold_in(state.key, state.version)
    with jax.named_scope("rollout"):
        trajectory = rollout.generate(
            state.policy,
            env,
            prompts=prompts,
            group=group,
            slots=slots,
            limits=limits,
            sampler=rollout.Categorical(temperature),
            version=state.version,
            key=key,
        )
    with jax.named_scope("reward"):
        # Who paid must not change how the rest of a step is compiled: a host reward
        # then equals one in the graph to the last bit.
        rewards = jax.lax.optimization_barrier(reward_phase.checked(reward, trajectory))
        metrics = measure(trajectory, rewards)
    with jax.named_scope("advantage"):
        if train_prompts is not None:
            trajectory, rewards = advantage.take_nonzero_variance(
                trajectory, rewards, count=train_prompts
            )
        advantages = algorithm.advantage(rewards)
        keep = algorithm.select(rewards)
    if validate:
        check = validation.validate
        trajectory = check(trajectory, stage="rollout")
        trajectory, rewards = check((trajectory, rewards), stage="rewarded")
        phases = trajectory, rewards, advantages
        trajectory, rewards, advantages = check(phases, stage="advantaged")
    return Experience(trajectory, rewards, advantages, keep, metrics)


def learn(
    state: TrainState,
    experience: Experience,
    *,
    optimizer: optax.GradientTransformation,
    algorithm: Algorithm = grpo(),
    temperature: update.Number = 1.0,
    epochs: int = 1,
    minibatches: int = 1,
    microbatches: int | None = None,
    recompute: bool = False,
    chunk: int | None = None,
) -> tuple[TrainState, Metrics]:
    """The second half of a step: improve.

    The arguments are those of `train_step`, and what `collect` made of the same state.

    **Returns:** the next state, and the metrics of the whole step.
    """
    with jax.named_scope("update"):
        policy, opt_state, metrics = update.improve(
            state.policy,
            state.opt_state,
            experience.trajectory,
            experience.advantages,
            experience.keep,
            objective=algorithm.objective,
            optimizer=optimizer,
            reference=state.reference,
            temperature=temperature,
            epochs=epochs,
            minibatches=minibatches,
            microbatches=microbatches,
            recompute=recompute,
            chunk=chunk,
        )
    next_state = TrainState(
        policy, opt_state, state.reference, state.version + 1, state.key
    )
    return sharding.constrain(next_state), {**experience.metrics, **metrics}


def train_step(
    state: TrainState,
    *,
    env: AbstractEnvironment,
    optimizer: optax.GradientTransformation,
    algorithm: Algorithm = grpo(),
    reward: reward_phase.RewardFn = reward_phase.WeightedSum(),
    prompts: int,
    group: int,
    train_prompts: int | None = None,
    slots: int | None = None,
    limits: Int[ArrayLike, "prompt group"] | None = None,
    temperature: update.Number = 1.0,
    epochs: int = 1,
    minibatches: int = 1,
    microbatches: int | None = None,
    recompute: bool = False,
    chunk: int | None = None,
    validate: bool = False,
) -> tuple[TrainState, Metrics]:
    """One step: `collect`, then `learn`.

    What evolves is positional and comes back; what is fixed is keyword-only.

    **Arguments:**

    - `state`: from `init`, or from the step before.
    - `env`: asks and pays.
    - `optimizer`: an optax transformation.
    - `algorithm`: how rewards become a gradient; see `grpojax.algorithms`.
    - `reward`: weighs the environment's components; see `grpojax.reward`.
    - `prompts`, `group`: how many prompts, and how many samples of each.
    - `train_prompts`: go on with so many of the prompts, those with something to learn
        first (`advantage.take_nonzero_variance`): DAPO's oversampling at a static shape. The
        metrics of the rollout are those of all prompts.
    - `slots`, `limits`: how many rows are decoded at a time, and how long each may be;
        see `rollout.complete`.
    - `temperature`: of the sampler and of the loss alike.
    - `epochs`, `minibatches`, `microbatches`, `recompute`, `chunk`: see
        `update.improve`.
    - `validate`: check each phase's result at run time; see `grpojax.validate`.

    **Returns:** the next state, and metrics as scalars on the device.

    **Raises:** `TypeError` for a reward function that returns no `Rewards`;
    `ValueError` for sizes that do not fit, before anything is compiled.
    """
    experience = collect(
        state,
        env=env,
        algorithm=algorithm,
        reward=reward,
        prompts=prompts,
        group=group,
        train_prompts=train_prompts,
        slots=slots,
        limits=limits,
        temperature=temperature,
        validate=validate,
    )
    return learn(
        state,
        experience,
        optimizer=optimizer,
        algorithm=algorithm,
        temperature=temperature,
        epochs=epochs,
        minibatches=minibatches,
        microbatches=microbatches,
        recompute=recompute,
        chunk=chunk,
    )


def train(
    state: TrainState, *, steps: int, **fixed
) -> tuple[TrainState, dict[str, Float[Array, " step"]]]:
    """Scans `train_step`: `steps` of them without a return to the host.

    **Arguments:**

    - `state`: from `init`.
    - `steps`: how many.
    - `fixed`: the keyword arguments of `train_step`.

    **Returns:** the state after the last step, and every step's metrics, stacked.
    """
    if steps < 0:
        raise ValueError(f"train: steps must not be negative. Received {steps}.")
    arrays, static = eqx.partition(state, eqx.is_array)

    def step(arrays, _):
        state, metrics = train_step(eqx.combine(arrays, static), **fixed)
        return eqx.filter(state, eqx.is_array), metrics

    arrays, metrics = jax.lax.scan(step, arrays, length=steps)
    return eqx.combine(arrays, static), metrics
