"""The rollout backend of agents: episodes over HTTP, and the trajectory of them."""

import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import jax.random as jr
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Int, Key, PyTree, UInt

from ...policy import AbstractPolicy
from ...rollout import AbstractSampler, Categorical, Greedy, Truncated
from ...rollout._plan import row_keys
from ...sharding import spmd
from ...types import Prompt, Trajectory
from ..distributed import mesh as meshes
from ..serve.rows import Sampling
from ..serve.service import Service
from .endpoint import serve
from .episode import Episode, Settings
from .trajectory import traced, trajectory


if TYPE_CHECKING:
    from .environment import AgentEnvironment


def drive(
    policy: AbstractPolicy,
    env: "AgentEnvironment",
    states: PyTree,
    prompts: Prompt,
    *,
    group: int,
    slots: int | None,
    cache_tokens: int | None,
    limits: Int[ArrayLike, "prompt group"] | None,
    sampler: AbstractSampler,
    first: Int[ArrayLike, ""],
    key: Key[Array, ""],
) -> Trajectory:
    """Episodes of prompts, as `rollout.complete`, sampled by agents."""
    if cache_tokens is not None:
        raise ValueError(
            "rollout: an agent's calls are decoded with a whole horizon each. Received "
            f"cache_tokens={cache_tokens}: leave it out, or lower `slots`."
        )
    shape = prompts.length.shape[0], group
    if any(isinstance(x, Tracer) for x in jax.tree.leaves((policy, states, key))):
        return traced(env, states, shape, sampler)
    if jax.process_count() > 1:
        raise ValueError(
            "Agents sample the rows of their own process. Received a run of "
            f"{jax.process_count()} processes: start one, on the devices of a machine."
        )
    rooms = _rooms(env, states, shape, limits)
    keys = jax.vmap(jax.vmap(jr.bits))(row_keys(key, shape, first))
    episodes = _episodes(env, states, keys, rooms, _sampling_of(sampler))
    shards = spmd.shards()
    count = -(-min(slots or len(episodes), len(episodes)) // shards) * shards
    service = Service(
        policy,
        env.tokenizer,
        slots=count,
        max_prompt=env.max_prompt + env.max_completion_length,
        max_tokens=env.max_completion_length,
        ends=[*env.end_tokens.tolist(), *([env.env.stop] if env.env.stop else [])],
        mesh=meshes.mesh_of(policy),
    )
    with (
        service,
        serve(service, episodes) as urls,
        ThreadPoolExecutor(env.concurrency, "agent") as pool,
    ):
        ended = list(pool.map(Episode.run, episodes, urls))
    return trajectory(env, states, prompts, ended, shape, sampler)


def _episodes(
    env: "AgentEnvironment",
    states: PyTree,
    keys: UInt[Array, "prompt group"],
    rooms: Int[Array, "prompt group"],
    sampling: Sampling,
) -> list[Episode]:
    """The episodes of all rows, before they begin."""
    of = Settings(env.agent, env.tokenizer, env.max_prompt, sampling, env.seconds)
    bits, numbers, most = jax.device_get((keys, states.problem, rooms))
    columns = env.rows or {}
    return [
        Episode(
            of,
            {name: values[int(numbers[p])] for name, values in columns.items()},
            int(most[p, g]),
            int(bits[p, g]),
        )
        for p, g in itertools.product(*map(range, most.shape))
    ]


def _sampling_of(sampler: AbstractSampler) -> Sampling:
    if isinstance(sampler, Categorical):
        return Sampling(float(sampler.temperature))
    if isinstance(sampler, Greedy):
        return Sampling(0.0)
    if isinstance(sampler, Truncated):
        return Sampling(
            float(sampler.temperature),
            sampler.top_k or 0,
            float(sampler.top_p or 1.0),
            float(sampler.min_p or 0.0),
        )
    raise ValueError(
        "rollout: agents' calls are sampled by `Categorical`, `Greedy` or `Truncated`. "
        f"Received {sampler!r:.80}: choose one of them."
    )


def _rooms(
    env: "AgentEnvironment",
    states: PyTree,
    shape: tuple[int, int],
    limits: Int[ArrayLike, "prompt group"] | None,
) -> Int[Array, "prompt group"]:
    """The most tokens of each row after its first prompt."""
    horizon = jnp.broadcast_to(jax.vmap(env.horizon)(states)[:, None], shape)
    if limits is None:
        return horizon
    return jnp.clip(jnp.asarray(limits, jnp.int32), 1, horizon)
