"""The train step: rollout, reward, advantage and update as one pure function."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Key

from .. import sharding, validation
from .._checks import check_counts, check_instances, check_parts
from ..algorithms import Algorithm, grpo
from ..curriculum import AbstractCurriculum
from ..env import AbstractDatasetEnvironment, AbstractEnvironment
from ..policy import AbstractPolicy
from ..reward import RewardFn, WeightedSum
from ..rollout import PartialRows, RolloutConfig
from ..types import Metrics, TrainState, Trajectory
from ..update import Batch, improve, LossWeights, Reference, UpdateConfig
from ._average import averaged, Averaging
from ._experience import collect, Experience, sample
from ._init import init
from ._source import draw_ahead, Draws, RolloutSource, with_past


def learn(
    state: TrainState,
    experience: Experience,
    optimizer: optax.GradientTransformation,
    algorithm: Algorithm = grpo(),
    *,
    update: UpdateConfig = UpdateConfig(),
    teacher: AbstractPolicy | None = None,
    average: Averaging | None = None,
    validate: bool = False,
) -> tuple[TrainState, Metrics]:
    """Updates the policy on collected experience.

    The arguments are as in `train_step`, with `experience` collected from `state`.

    **Returns:** the next state, and the metrics of the whole step, including those
    of `collect`.
    """
    check_instances("learn", algorithm=algorithm)

    def check(batch: Batch, weights: LossWeights) -> Batch:
        names = "behavior", "reference", "old", "teacher"
        known = {name: x for name in names if (x := getattr(batch, name)) is not None}
        mask, *_ = validation.validate(
            (batch.mask, weights.token, batch.advantage, known),
            stage="train_step" if batch.old is None else "train_ready",
            step=state.version + 1,
        )
        return dataclasses.replace(batch, mask=mask)

    reference = state.reference
    if average is not None and average.reference:
        reference = averaged(state)
    with jax.named_scope("update"):
        policy, opt_state, metrics = improve(
            state.policy,
            state.opt_state,
            experience.trajectory,
            experience.advantages,
            experience.keep,
            objective=algorithm.objective,
            optimizer=optimizer,
            reference=reference,
            teacher=teacher,
            config=update,
            validate=check if validate else None,
        )
    version = state.version + 1
    after = TrainState(
        policy,
        opt_state,
        state.reference,
        version,
        state.key,
        experience.curriculum,
        partial=experience.partial,
    )
    if average is not None:
        moved = average.update(state.average, policy, version)
        after = dataclasses.replace(after, average=moved)
    after = sharding.constrain(with_past(state, experience.drawn, after))
    return after, {**experience.metrics, **metrics}


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

    **Fields:** the arguments of `train_step`, except `state`, and:

    - `teacher`: the frozen policy of `update.Distill`, of the same tokenizer. It is no
        part of the state, and so of no checkpoint.
    - `average`: keeps an average of the weights in the state, maybe as the reference.
    - `actors`: a mesh of other devices, on which `fit` samples the rollouts of the next
        `rollout.staleness` steps while it learns: asynchronous training. The result is
        the same, since each step's rollout is of the version that `staleness` says.
        Only `fit` reads it.

    !!! example

        ```python
        step = TrainStep(env, optimizer, rollout=RolloutConfig(prompts=8, group=8))
        state = step.init(policy, key=key)
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
    teacher: AbstractPolicy | None = eqx.field(kw_only=True, default=None)
    average: Averaging | None = eqx.field(kw_only=True, default=None)
    validate: bool = eqx.field(kw_only=True, static=True, default=False)
    actors: Mesh | None = eqx.field(kw_only=True, static=True, default=None)

    def __check_init__(self):
        check_instances("TrainStep", **vars(self))
        check_parts("TrainStep", reward=self.reward)
        outside = self.env.backend is not None
        if outside and (self.rollout.partial_prompts or self.actors is not None):
            raise ValueError(
                "A rollout whose turns Python answers is made by the step itself, to "
                "its end. Received partial_prompts or actors besides an environment "
                "with a `backend`: leave them out."
            )

    def init(
        self,
        policy: AbstractPolicy,
        *,
        reference: Reference | None = None,
        key: Key[Array, ""],
    ) -> TrainState:
        """The initial train state, with all that this step keeps in it.

        **Arguments:** `policy`, `reference` and `key` as in `grpojax.init`; the others
        follow from the step.
        """
        env, memory = self.env, None
        if self.average is not None and self.average.reference and reference:
            raise ValueError(
                "A penalty has one reference policy. Received `reference` besides an "
                "average that is one: leave it out, or `Averaging.reference`."
            )
        if self.curriculum is not None and isinstance(env, AbstractDatasetEnvironment):
            memory = self.curriculum.init(env)
        state = init(
            policy,
            optimizer=self.optimizer,
            reference=reference,
            curriculum=memory,
            key=key,
        )
        if self.average is not None:
            average = self.average.init(policy)
            state = dataclasses.replace(state, average=average)
        return draw_ahead(state, self.draws)

    def __call__(self, state: TrainState) -> tuple[TrainState, Metrics]:
        """One train step: the next state, and the step's metrics."""
        return self.learn(state, self.collect(state))

    def generate(self, state: TrainState) -> Trajectory:
        """The rollout of a step."""
        return self.sample(RolloutSource.of(state, self.draws))[0]

    @property
    def draws(self) -> Draws:
        """How the problems of a step are drawn."""
        return Draws(self.env, self.rollout, self.curriculum)

    def sample(self, source: RolloutSource) -> tuple[Trajectory, PartialRows | None]:
        """The rollout of a step, and the rows that go on in the next one."""
        return sample(source, self.draws)

    def collect(
        self,
        state: TrainState,
        trajectory: Trajectory | None = None,
        partial: PartialRows | None = None,
    ) -> Experience:
        """The first half of a step: rollout, if not given, rewards and advantages."""
        names = "rollout", "reward", "curriculum", "validate"
        given: Any = {x: vars(self)[x] for x in names}
        given |= {"trajectory": trajectory, "partial": partial}
        return collect(state, self.env, self.algorithm, **given)

    def learn(
        self, state: TrainState, experience: Experience
    ) -> tuple[TrainState, Metrics]:
        """The second half of a step: the policy update."""
        names = "update", "teacher", "average", "validate"
        given: Any = {x: vars(self)[x] for x in names}
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
