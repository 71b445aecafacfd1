"""What a step's rollout is sampled with."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Int, Key

from ..curriculum import AbstractCurriculum
from ..env import AbstractDatasetEnvironment, AbstractEnvironment
from ..policy import AbstractPolicy
from ..rollout import draw, Drawn, PartialRows, RolloutConfig
from ..types import PastPolicy, TrainState


class Draws(eqx.Module):
    """How the problems of a step are drawn.

    **Fields:** as those of `TrainStep`.
    """

    env: AbstractEnvironment
    rollout: RolloutConfig
    curriculum: AbstractCurriculum | None

    def ahead(self, state: TrainState) -> int:
        """Number of steps after the next one whose problems have been drawn."""
        return len(state.past) + self.rollout.steps_ahead

    def draw(
        self, state: TrainState, step: Int[Array, ""]
    ) -> Int[Array, " prompt"] | None:
        """The problems of a step; `None` without a curriculum."""
        if self.curriculum is None:
            return None
        self._check(state)
        with jax.named_scope("curriculum"):
            return self.curriculum.draw(
                state.curriculum, state.key, step, self.rollout.prompts
            )

    def draw_rows(
        self, key: Key[Array, ""], step: Int[Array, ""], problems: Array | None
    ) -> Drawn:
        """The prompts of a step, with the keys of their rows."""
        key = jr.fold_in(key, step)
        return draw(self.env, self.rollout, problems=problems, key=key)

    def _check(self, state: TrainState):
        if not isinstance(self.env, AbstractDatasetEnvironment):
            raise ValueError(
                "A curriculum chooses among numbered problems. Received "
                f"{type(self.env).__name__}, whose `reset` makes its own: derive it "
                "from `AbstractDatasetEnvironment`, or leave `curriculum` out."
            )
        if state.curriculum is None:
            raise ValueError(
                "A curriculum's memory is part of the train state. Received a state "
                f"without one for {type(self.curriculum).__name__}: pass "
                "`curriculum=curriculum.init(env)` to `grpojax.init`."
            )


class RolloutSource(eqx.Module):
    """What a step's rollout is sampled with.

    **Fields:**

    - `policy`: the one that samples, before `RolloutConfig.behavior`.
    - `version`: of that policy.
    - `problems`: numbers of the problems that are asked; `None` without a curriculum.
    - `step`: the index of the step whose prompts these are, from 0.
    - `key`: root PRNG key.
    - `partial`: rows of the steps before that are not over.
    """

    policy: AbstractPolicy
    version: Int[Array, ""]
    problems: Int[Array, " prompt"] | None
    step: Int[Array, ""]
    key: Key[Array, ""]
    partial: PartialRows | None = None

    @staticmethod
    def of(state: TrainState, draws: Draws, ahead: int = 0) -> "RolloutSource":
        """The source of the next step's rollout, or of one after that.

            version = max(step - staleness, 0)

        **Arguments:**

        - `state`: the current train state.
        - `draws`: of the step.
        - `ahead`: number of steps after the next one, at most `staleness`.

        **Raises:** `ValueError` if `staleness` is an `int` and the state does not keep
        so many policies. An array is clipped to what it keeps.
        """
        staleness, past = draws.rollout.versions_behind, state.past
        policy, version = state.policy, state.version
        later = ahead if ahead < len(past) else draws.ahead(state)
        step = version + later if later else version
        if ahead < len(past):
            problems = past[ahead].problems
        else:
            problems = draws.draw(state, step)
        if isinstance(staleness, int):
            behind = staleness - ahead
            if behind > len(past):
                raise ValueError(
                    f"rollout: staleness={staleness} samples with the policy of so "
                    f"many versions before. Received a train state that keeps "
                    f"{len(past)}: make it by `TrainStep.init`."
                )
            params = past[-behind].params if behind else None
        else:
            behind = jnp.clip(staleness - ahead, 0, len(past))
            choices = params_of(state), *(x.params for x in reversed(past))
            params = jax.tree.map(lambda *x: jax.lax.select_n(behind, *x), *choices)
        return RolloutSource(
            policy=policy if params is None else eqx.combine(params, policy),
            version=version if params is None else jnp.maximum(version - behind, 0),
            problems=problems,
            step=step,
            key=state.key,
            partial=state.partial,
        )


def params_of(state: TrainState) -> AbstractPolicy:
    """The trainable arrays of a state's policy."""
    return eqx.filter(state.policy, state.policy.trainable())


def with_past(
    state: TrainState, problems: Int[Array, " prompt"] | None, after: TrainState
) -> TrainState:
    """The state after a step, with the policies that its rollouts may need.

    **Arguments:**

    - `state`: before the step.
    - `problems`: those that were drawn at its version.
    - `after`: the state after it.
    """
    if not state.past:
        return after
    past = (*state.past[1:], PastPolicy(params_of(state), problems))
    return dataclasses.replace(after, past=past)


def draw_ahead(state: TrainState, draws: Draws) -> TrainState:
    """The initial state, with the prompts of the steps that are drawn before it."""
    staleness, config = draws.rollout.versions_behind, draws.rollout
    count = staleness if isinstance(staleness, int) else int(jnp.max(staleness))
    # Copies: a step donates the state, and no buffer may be donated twice.
    copy = lambda tree: jax.tree.map(jnp.copy, tree)
    past, prompts = [], []
    for number in range(count + config.steps_ahead):
        step = jnp.array(number, jnp.int32)
        problems = draws.draw(state, step)
        if number < count:
            past.append(PastPolicy(copy(params_of(state)), problems))
        else:
            prompts.append(draws.draw_rows(state.key, step, problems))
        if draws.curriculum is not None and problems is not None:
            memory = draws.curriculum.advance(state.curriculum, problems)
            state = dataclasses.replace(state, curriculum=memory)
    partial = None
    if prompts:
        joined = jax.tree.map(lambda *x: jnp.concatenate(x), *prompts)
        partial = copy(PartialRows.of(draws.env, joined))
    return dataclasses.replace(state, past=tuple(past), partial=partial)
