"""The train step: rollout, reward, advantage and update as one pure function."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key, PyTree

from .. import sharding, validation
from .._checks import check_counts, check_instances, check_parts
from ..algorithms import Algorithm, grpo
from ..curriculum import AbstractCurriculum
from ..env import AbstractEnvironment
from ..policy import AbstractPolicy
from ..reward import RewardFn, WeightedSum
from ..rollout import RolloutConfig
from ..types import Metrics, TrainState, Trajectory
from ..update import Batch, improve, LossWeights, Reference, UpdateConfig
from ._experience import collect, Experience, sample


def init(
    policy: AbstractPolicy,
    *,
    optimizer: optax.GradientTransformation,
    reference: Reference | None = None,
    curriculum: PyTree = None,
    key: Key[Array, ""],
) -> TrainState:
    """The initial train state.

    **Arguments:**

    - `policy`: the arrays that `policy.trainable()` selects are trained.
    - `optimizer`: an optax transformation; pass the same one to `train_step`.
    - `reference`: the frozen reference policy of a KL penalty, or a function that
        derives it from the trained policy, such as `models.without_adapters`, at no
        memory cost.
    - `curriculum`: the memory of the step's curriculum, `curriculum.init(env)`.
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
        curriculum=curriculum,
    )


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
    state = TrainState(
        policy, opt_state, state.reference, version, state.key, experience.curriculum
    )
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
    curriculum: AbstractCurriculum | None = None,
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
    - `curriculum`: chooses the problems, with its memory in the state; see
        `grpojax.curriculum`. The environment draws them when `None`.
    - `validate`: whether to check every phase's outputs at run time; see
        `grpojax.validate`.

    **Returns:** the next state, and metrics as scalars on the device.

    **Raises:** `TypeError` if the reward function does not return `Rewards`, and
    `ValueError` for incompatible sizes, both while tracing.
    """
    experience = collect(
        state,
        env,
        algorithm,
        rollout=rollout,
        reward=reward,
        curriculum=curriculum,
        validate=validate,
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
    curriculum: AbstractCurriculum | None = eqx.field(kw_only=True, default=None)
    validate: bool = eqx.field(kw_only=True, static=True, default=False)

    def __check_init__(self):
        check_instances("TrainStep", **vars(self))
        check_parts("TrainStep", reward=self.reward)

    def __call__(self, state: TrainState) -> tuple[TrainState, Metrics]:
        """One train step: the next state, and the step's metrics."""
        return self.learn(state, self.collect(state))

    def generate(self, state: TrainState) -> Trajectory:
        """The rollout of a step."""
        return sample(state, self.env, self.rollout, self.curriculum)

    def collect(
        self, state: TrainState, trajectory: Trajectory | None = None
    ) -> Experience:
        """The first half of a step: rollout, if not given, rewards and advantages."""
        names = "rollout", "reward", "curriculum", "validate"
        given: Any = {x: vars(self)[x] for x in names}
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
