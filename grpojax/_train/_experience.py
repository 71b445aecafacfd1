"""The first half of a step: rollout, rewards and advantages."""

from collections.abc import Mapping

import equinox as eqx
import jax
import jax.random as jr
from jaxtyping import Array, Bool, Float, Int, PyTree

from .. import advantage, reward as rewards_phase, validation
from .._checks import check_instances
from ..algorithms import Algorithm, grpo
from ..curriculum import AbstractCurriculum
from ..env import AbstractDatasetEnvironment, AbstractEnvironment
from ..reward import RewardFn, WeightedSum
from ..rollout import generate, generate_partial, PartialRows, RolloutConfig
from ..sharding import spmd
from ..types import Metrics, Rewards, TrainState, Trajectory
from ._measure import measure, measure_staleness
from ._source import Draws, RolloutSource


class Experience(eqx.Module):
    """A rollout with rewards and advantages: the output of `collect`.

    **Fields:**

    - `trajectory`, `rewards`: of the prompts selected for training.
    - `advantages`: per row, or per token.
    - `keep`: mask of the rows that contribute to the loss.
    - `metrics`: rollout metrics over all sampled prompts, before selection.
    - `curriculum`: the curriculum's memory after it has observed all of them.
    - `drawn`: the problems that the curriculum drew in this step; of a later one with
        `staleness` or `partial_prompts`. `None` without a curriculum.
    - `partial`: unfinished rows that go on in the next step, or `None`.
    """

    trajectory: Trajectory
    rewards: Rewards
    advantages: Float[Array, "prompt group *time"]
    keep: Bool[Array, "prompt group"]
    metrics: Metrics
    curriculum: PyTree = None
    drawn: Int[Array, " drawn"] | None = None
    partial: PartialRows | None = None


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
    partial: PartialRows | None = None,
) -> Experience:
    """Samples completions, and computes rewards and advantages.

    **Arguments:** as `train_step`, and:

    - `trajectory`, `partial`: a rollout that was sampled already, with its unfinished
        rows, from `TrainStep.sample`.
    """
    check_instances("collect", algorithm=algorithm)
    draws = Draws(env, rollout, curriculum)
    if trajectory is None:
        trajectory, partial = sample(RolloutSource.of(state, draws), draws)
    with jax.named_scope("reward"):
        rewards = rewards_phase.checked(reward, trajectory)
        # Barrier: stops XLA from fusing across the reward, so that host and in-graph
        # rewards give bit-identical updates.
        rewards = jax.lax.optimization_barrier(rewards)
        metrics = measure(trajectory, rewards, _tasks(env))
        if state.past or partial is not None:
            metrics |= measure_staleness(trajectory, state.version)
    memory, asked, ahead = state.curriculum, trajectory.problems, draws.ahead(state)
    drawn = draws.draw(state, state.version + ahead) if ahead else asked
    if curriculum is not None and drawn is not None and asked is not None:
        with jax.named_scope("curriculum"):
            # Replicated, as the memory is: no device sums in an order of its own.
            drawn, asked, seen = spmd.replicate((drawn, asked, rewards))
            memory = curriculum.advance(memory, drawn)
            memory = curriculum.observe(memory, asked, seen)
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
    return Experience(
        trajectory, rewards, advantages, keep, metrics, memory, drawn, partial
    )


def sample(
    source: RolloutSource, draws: Draws
) -> tuple[Trajectory, PartialRows | None]:
    """The rollout of a step, and the rows that go on in the next one."""
    config, partial = draws.rollout, None
    with jax.named_scope("rollout"):
        if config.partial_prompts:
            trajectory, partial, _ = generate_partial(
                source.policy,
                draws.env,
                config,
                _checked_partial(source, config),
                draws.draw_rows(source.key, source.step, source.problems),
                version=source.version,
            )
        else:
            trajectory = generate(
                source.policy,
                draws.env,
                config,
                problems=source.problems,
                version=source.version,
                key=jr.fold_in(source.key, source.step),
            )
    # Barrier: `fit` ends a program here if the reward runs Python.
    return jax.lax.optimization_barrier((trajectory, partial))


def _tasks(env: AbstractEnvironment) -> Mapping[str, int]:
    return env.tasks if isinstance(env, AbstractDatasetEnvironment) else {}


def _checked_partial(source: RolloutSource, config: RolloutConfig) -> PartialRows:
    partial = source.partial
    if partial is None or partial.drawn.keys.shape[0] != config.partial_prompts:
        found = "none" if partial is None else partial.drawn.keys.shape[0]
        raise ValueError(
            "rollout: rows that go on in the next step are part of the train state. "
            f"Received partial_prompts={config.partial_prompts} and a state with "
            f"{found}: make it by `TrainStep.init`."
        )
    return partial
