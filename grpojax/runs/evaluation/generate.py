"""Completions with rewards and per-token probabilities, for inspection."""

import dataclasses
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Int, Key

from ... import rollout
from ...env import AbstractDatasetEnvironment, TimeStep, Turn
from ...policy import AbstractPolicy
from ...reward import checked, RewardFn, split
from ...reward.split import HostInputs, HostOutputs
from ...sharding import spmd
from ...text import AbstractTokenizer, split_ends, StopString
from ...types import Prompt, Trajectory
from ..distributed import mesh
from ..io.samples import Samples, to_records


class Prompts(AbstractDatasetEnvironment[Int[Array, ""]]):
    """An environment of given prompts, without rewards; its state is the index."""

    prompts: Prompt
    end_tokens: Int[Array, " end"]
    size: int = eqx.field(static=True)
    vocab_size: int = eqx.field(static=True)
    max_prompt_length: int = eqx.field(static=True)
    max_completion_length: int = eqx.field(static=True)
    max_turns: int = eqx.field(static=True, default=1)

    def __init__(
        self,
        prompts: Sequence[Sequence[int]],
        tokenizer: AbstractTokenizer,
        *,
        max_completion_length: int,
        ends: Sequence[int | str | StopString] = (),
    ):
        """**Arguments:**

        - `prompts`: their tokens.
        - `tokenizer`: the policy's.
        - `max_completion_length`: the horizon in tokens.
        - `ends`: what ends a completion besides the tokenizer's end tokens; see
            `text.split_ends`.

        **Raises:** `ValueError` for a prompt without tokens, or a stop string that does
        not fit.
        """
        lengths = [len(prompt) for prompt in prompts]
        if min(lengths, default=0) < 1:
            raise ValueError(
                "A prompt needs at least one token. Received prompts of "
                f"{lengths} tokens: write something."
            )
        self.size, self.max_prompt_length = len(prompts), max(lengths)
        padded = np.zeros((self.size, self.max_prompt_length), np.int32)
        for row, prompt in zip(padded, prompts, strict=True):
            row[: len(prompt)] = prompt
        self.prompts = Prompt(jnp.asarray(padded), jnp.array(lengths, jnp.int32))
        tokens, self.stop = split_ends(tokenizer, ends, max_completion_length)
        self.end_tokens = jnp.array([*tokenizer.end_tokens, *tokens], jnp.int32)
        self.vocab_size = tokenizer.vocab_size
        self.max_completion_length = max_completion_length

    def problem(self, index: Int[Array, ""]) -> tuple[Int[Array, ""], Prompt]:
        return index, jax.tree.map(lambda x: x[index], self.prompts)

    def step(
        self, state: Int[Array, ""], turn: Turn
    ) -> tuple[Int[Array, ""], TimeStep]:
        del turn
        no_reply = jnp.zeros(0, jnp.int32), jnp.zeros((), jnp.int32)
        return state, TimeStep(*no_reply, rewards={}, done=jnp.ones((), bool))


def _complete(
    policy: AbstractPolicy,
    env: AbstractDatasetEnvironment,
    reward: RewardFn | None,
    sampler: rollout.AbstractSampler,
    key: Key[Array, ""],
    *,
    problems: int,
    samples: int,
) -> tuple[Trajectory, list[HostInputs]]:
    # Every shard of a mesh has equally many; those beyond `problems` are dropped.
    padded = -(-problems // spmd.shards()) * spmd.shards()
    index = jnp.minimum(jnp.arange(padded), problems - 1)
    states, prompts = jax.vmap(env.problem)(index)
    trajectory = rollout.complete(
        policy, env, states, prompts, group=samples, sampler=sampler, key=key
    )
    trajectory = dataclasses.replace(trajectory, problems=index)
    inputs = split.host_inputs(reward, trajectory)
    return spmd.constrain_batch((trajectory, inputs))


_compiled = eqx.filter_jit(_complete)


@eqx.filter_jit
def _reward(
    reward: RewardFn | None,
    trajectory: Trajectory,
    outputs: list[HostOutputs],
    *,
    problems: int,
) -> Samples:
    rewards = None
    if reward is not None:
        judged = split.with_outputs(reward, trajectory, outputs)
        rewards = checked(judged, trajectory)
    every = Samples.of(trajectory, rewards)
    return mesh.replicate(jax.tree.map(lambda x: x[:problems], every))


def generate(
    policy: AbstractPolicy,
    env: AbstractDatasetEnvironment,
    tokenizer: AbstractTokenizer,
    *,
    problems: int = 4,
    samples: int = 1,
    sampler: rollout.AbstractSampler = rollout.Categorical(),
    reward: RewardFn | None = None,
    key: Key[Array, ""] | None = None,
    step: int = 0,
) -> list[dict[str, object]]:
    """Completions of an environment's first problems, with their rewards.

    **Arguments:**

    - `policy`: is sampled from.
    - `env`: problems, or `Prompts`.
    - `tokenizer`: the policy's.
    - `problems`, `samples`: how many problems, and completions of each.
    - `sampler`: draws them.
    - `reward`: a reward function; without one there are no rewards.
    - `key`: consumed; by default `jax.random.key(0)`.
    - `step`: the policy's, for the records.

    **Returns:** a record for each problem; see `io.samples.to_records`. Advantages are
    NaN.
    """
    key = jr.key(0) if key is None else key
    complete = _compiled if env.backend is None else _complete
    trajectory, inputs = complete(
        policy, env, reward, sampler, key, problems=problems, samples=samples
    )
    outputs = split.call_host(reward, inputs)
    found = _reward(reward, trajectory, outputs, problems=problems)
    return list(to_records(step, jax.device_get(found), tokenizer))
