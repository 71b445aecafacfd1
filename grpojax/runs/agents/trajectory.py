"""The trajectory of episodes: arrays of what they recorded."""

import itertools
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from ...env import Turn
from ...rollout import AbstractSampler
from ...sharding import spmd
from ...types import Prompt, Trajectory
from .episode import Ended


if TYPE_CHECKING:
    from .environment import AgentEnvironment

_logger = logging.getLogger("grpojax.reward")

_UNLIKE = (
    "the first prompts of the rows of one problem begin with the same token, as those "
    "of a chat template do"
)


def _horizon(env: "AgentEnvironment") -> int:
    return env.max_completion_length


def _time(env: "AgentEnvironment") -> int:
    """The width of completions, a first prompt included that no other row shares."""
    return env.max_prompt - 1 + _horizon(env)


def trajectory(
    env: "AgentEnvironment",
    states: PyTree,
    prompts: Prompt,
    ended: Sequence[Ended],
    shape: tuple[int, int],
    sampler: AbstractSampler,
) -> Trajectory:
    """The trajectory of episodes, with the rewards of their last answers.

    **Arguments:**

    - `states`, `prompts`: of the problems.
    - `ended`: episodes, group by group.
    - `shape`: how many prompts, and rows of each.
    - `sampler`: of all calls.
    """
    shared, lengths = _shared_prompts(env, prompts, ended, shape)
    prompt = np.repeat(lengths, shape[1])
    unlike = [
        bool(own) and own[:n] != shared[i // shape[1], :n].tolist()
        for i, n in enumerate(prompt)
        for own in [ended[i].recorded.prompt]
    ]
    errors = [
        row.error or (ValueError(_UNLIKE) if other else None)
        for row, other in zip(ended, unlike, strict=True)
    ]
    _warn([x for x in errors if x is not None], len(ended))
    rows = lambda values, dtype: jnp.asarray(
        np.asarray(values, dtype).reshape(*shape, *np.shape(values)[1:])
    )
    tokens, sampled, log_probs, turns = _arrays(env, ended, prompt, unlike)
    counts = {
        "errors": rows([x is not None for x in errors], np.int32),
        "rejected": rows([x.rejected and x.error is None for x in ended], np.int32),
    }
    dropped, own = (counts["errors"] + counts["rejected"]) > 0, rows(sampled, bool)
    over = rows([x.recorded.ended for x in ended], bool)
    width = rows([len(x.recorded.turn) for x in ended], np.int32)
    rewards = _judge(env, states, Turn(rows(turns, np.int32), width, over))
    rewards |= {"environment": rows([x.reward for x in ended], np.float32)}
    found = Trajectory(
        prompt=Prompt(jnp.asarray(shared), jnp.asarray(lengths)),
        tokens=rows(tokens, np.int32),
        sampled=own,
        log_prob=rows(log_probs, np.float32),
        version=jnp.where(own, 0, -1).astype(jnp.int32),
        terminated=over,
        rewards={x: jnp.where(dropped, jnp.nan, y) for x, y in rewards.items()},
        temperature=jnp.asarray(sampler.temperature, jnp.float32),
        states=states,
        vocab_size=env.vocab_size,
        rows=env.rows,
        dropped=dropped,
        counts=counts,
    )
    return spmd.constrain_batch(found)


def _arrays(
    env: "AgentEnvironment",
    ended: Sequence[Ended],
    prompt: np.ndarray,
    unlike: Sequence[bool],
) -> tuple[np.ndarray, ...]:
    """Tokens, masks and log-probs of rows after their `prompt` tokens; last turns."""
    shape = len(ended), _time(env)
    tokens, turns = np.zeros(shape, int), np.zeros((shape[0], _horizon(env)), int)
    sampled, log_probs = np.zeros(shape, bool), np.zeros(shape, np.float32)
    for i, (row, start, left_out) in enumerate(zip(ended, prompt, unlike, strict=True)):
        recorded = row.recorded
        if left_out:
            continue
        own = recorded.prompt[start:]
        span = slice(len(own), len(own) + len(recorded.tokens))
        tokens[i, : len(own)], tokens[i, span] = own, recorded.tokens
        sampled[i, span], log_probs[i, span] = recorded.sampled, recorded.log_probs
        turns[i, : len(recorded.turn)] = recorded.turn
    return tokens, sampled, log_probs, turns


def _shared_prompts(
    env: "AgentEnvironment",
    prompts: Prompt,
    ended: Sequence[Ended],
    shape: tuple[int, int],
) -> tuple[np.ndarray, np.ndarray]:
    """What the first prompts of each group have in common, and how many tokens."""
    shared = np.zeros((shape[0], env.max_prompt), np.int32)
    lengths = np.ones(shape[0], np.int32)
    own = jax.device_get(prompts)
    for p in range(shape[0]):
        group = ended[p * shape[1] : (p + 1) * shape[1]]
        firsts = [x.recorded.prompt for x in group if x.recorded.prompt]
        # Without a single call it is the problem's own, of which nothing is trained.
        firsts = firsts or [own.tokens[p, : own.length[p]].tolist()[: env.max_prompt]]
        alike = [x for x in firsts if x[0] == firsts[0][0]]
        columns = zip(*alike, strict=False)
        same = itertools.takewhile(lambda column: len({*column}) == 1, columns)
        common = [column[0] for column in same]
        shared[p, : len(common)], lengths[p] = common, len(common)
    return shared, lengths


@eqx.filter_jit
def _judge(env: "AgentEnvironment", states: PyTree, turns: Turn) -> dict[str, Array]:
    """The rewards of the last answers."""
    step = lambda state, turn: env.step(state, turn)[1].rewards
    return jax.vmap(jax.vmap(step, in_axes=(None, 0)))(states, turns)


def _warn(errors: Sequence[Exception], count: int) -> None:
    if not errors:
        return
    words = f"{type(errors[0]).__name__}: {errors[0]}"
    _logger.warning(
        "The agent failed on %d of %d rows, which are left out. %s",
        *(len(errors), count, words),
        extra={"component": "environment", "error": words},
    )


def traced(
    env: "AgentEnvironment",
    states: PyTree,
    shape: tuple[int, int],
    sampler: AbstractSampler,
) -> Trajectory:
    """The shapes of a trajectory; a program that computes it raises."""
    zeros, time = jnp.zeros(shape, jnp.int32), _time(env)
    wide = jnp.zeros((*shape, time), jnp.int32)
    tokens = eqx.error_if(
        wide,
        jnp.ones((), bool),
        "Agents are called between programs, and cannot be part of one: call "
        "`step.generate`, `rollout.generate` or `grpojax.fit` outside of `jit`.",
    )
    turn = jnp.zeros((*shape, _horizon(env)), jnp.int32)
    return Trajectory(
        prompt=Prompt(
            jnp.zeros((shape[0], env.max_prompt), jnp.int32),
            jnp.ones(shape[0], jnp.int32),
        ),
        tokens=tokens,
        sampled=wide > 0,
        log_prob=wide.astype(jnp.float32),
        version=wide,
        terminated=zeros > 0,
        rewards=_judge(env, states, Turn(turn, zeros, zeros > 0)),
        temperature=jnp.asarray(sampler.temperature, jnp.float32),
        states=states,
        vocab_size=env.vocab_size,
        rows=env.rows,
        dropped=zeros > 0,
        counts={"errors": zeros, "rejected": zeros},
    )
