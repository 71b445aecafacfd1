"""The contract of `AbstractEnvironment`, checked on conversations of random tokens."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Int, Key, PyTree

from ..env import AbstractDatasetEnvironment, AbstractEnvironment, TimeStep, Turn
from ..types import Prompt
from ._require import require, require_equal, require_same_shapes


# A data set compiled into the program is recompiled with it. Scalars and small tables
# may be constants.
_LARGEST_CONSTANT = 2**16


def check_env(env: AbstractEnvironment, *, key: Key[Array, ""], tries: int = 16):
    """Checks that an environment keeps the contract of `AbstractEnvironment`.

    `reset` and `step` are pure, vmappable and total; prompts, replies, rewards and
    `done` follow the contract at every turn; states keep their shapes; data are
    arguments of the compiled step, not constants inside it.

    Whole conversations are played, up to `max_turns` turns of random tokens: each
    `step` gets the state that the one before returned. A conversation ends where
    `step` returns `done` or where the horizon is used up; after `done` it stays over
    and is paid nothing.

    **Arguments:**

    - `env`: the environment.
    - `key`: draws conversations and arbitrary turns.
    - `tries`: conversations. An environment that seldom goes on to a next turn needs
        more of them.

    **Raises:** `AssertionError` naming the law that is broken, and the turn.

    !!! example

        ```python
        grpojax.testing.check_env(env, key=jax.random.key(0))
        ```
    """
    reset_key, turn_key = jr.split(key)
    keys = jr.split(reset_key, tries)
    reset = eqx.filter_jit(lambda keys: jax.vmap(env.reset)(keys))
    states, prompts = reset(keys)
    require_equal(
        (states, prompts),
        reset(keys),
        "`reset` is pure: the same key must start the same conversation.",
    )
    _check_prompts(env, prompts)
    first = lambda tree: jax.tree.map(lambda x: x[0], tree)
    turns = _arbitrary_turns(env, turn_key, _Progress.start(env, tries))
    _check_constants(env, first(states), first(turns), keys[0])
    _check_conversations(env, states, turn_key, tries)


class _Progress(NamedTuple):
    """Progress of the conversations.

    **Fields:**

    - `turn`: turns played so far.
    - `remaining`: tokens of the horizon that each conversation has not used.
    - `live`: the conversations that are not over.
    - `done`: those that `step` has ended.
    """

    turn: int
    remaining: Int[np.ndarray, " try"]
    live: Bool[np.ndarray, " try"]
    done: Bool[np.ndarray, " try"]

    @classmethod
    def start(cls, env: AbstractEnvironment, tries: int) -> "_Progress":
        horizon = np.full(tries, env.max_completion_length)
        return cls(0, horizon, np.ones(tries, bool), np.zeros(tries, bool))

    def after(self, turns: Turn, answers: TimeStep) -> "_Progress":
        used = np.asarray(turns.length + answers.reply_length)
        remaining = self.remaining - np.where(self.live, used, 0)
        over = np.asarray(answers.done | ~turns.ended) | (remaining < 1)
        done = self.done | (self.live & np.asarray(answers.done))
        return _Progress(self.turn + 1, remaining, self.live & ~over, done)


def _check_conversations(
    env: AbstractEnvironment, states: PyTree, key: Key[Array, ""], tries: int
):
    step = eqx.filter_jit(lambda state, turn: jax.vmap(env.step)(state, turn))
    progress = _Progress.start(env, tries)
    while progress.turn < env.max_turns and (progress.live | progress.done).any():
        where = f"Turn {progress.turn + 1}: "
        turn_key = jr.fold_in(key, progress.turn)
        turns = _arbitrary_turns(env, turn_key, progress)
        after, answers = step(states, turns)
        _check_answers(env, answers, progress.live, where)
        _check_over(answers, progress.done, where)
        require_equal(
            (after, answers),
            step(states, turns),
            f"{where}`step` is pure: the same state and turn must get the same answer.",
        )
        require_same_shapes(
            states,
            after,
            f"{where}A state keeps its structure, shapes and dtypes from `reset` "
            "through `step`. Received another one:",
        )
        states, progress = after, progress.after(turns, answers)


def _check_prompts(env: AbstractEnvironment, prompts: Prompt):
    tries = prompts.length.shape[0]
    require(
        prompts.tokens.shape == (tries, env.max_prompt_length),
        "Prompts are padded to `max_prompt_length`. Received tokens of shape "
        f"{prompts.tokens.shape[1:]} for max_prompt_length={env.max_prompt_length}.",
    )
    length = np.asarray(prompts.length)
    require(
        bool(((length >= 1) & (length <= env.max_prompt_length)).all()),
        "A prompt's length is between 1 and max_prompt_length="
        f"{env.max_prompt_length}. Received {length.min()} to {length.max()}.",
    )
    inside = np.arange(env.max_prompt_length)[None] < length[:, None]
    _check_tokens(env, np.asarray(prompts.tokens)[inside], "Prompt tokens")


def _check_tokens(env: AbstractEnvironment, tokens: np.ndarray, name: str):
    outside = tokens[(tokens < 0) | (tokens >= env.vocab_size)]
    require(
        outside.size == 0,
        f"{name} are below vocab_size={env.vocab_size} and not negative. Received "
        f"{', '.join(map(str, np.unique(outside)[:4]))}.",
    )


def _arbitrary_turns(
    env: AbstractEnvironment, key: Key[Array, ""], progress: _Progress
) -> Turn:
    """Random tokens, as long as the horizon allows, that an end token may follow.

    Every other conversation takes short turns, of its share of what remains of the
    horizon, so that it gets to the last ones.
    """
    token_key, length_key, end_key = jr.split(key, 3)
    tries, time = progress.live.size, env.max_completion_length
    remaining = np.maximum(progress.remaining, 1)
    short = np.maximum(remaining // (env.max_turns - progress.turn), 1)
    longest = jnp.where(jnp.arange(tries) % 2 == 0, remaining, short)
    tokens = jr.randint(token_key, (tries, time), 0, env.vocab_size, jnp.int32)
    length = jr.randint(length_key, (tries,), 1, longest + 1, jnp.int32)
    # A turn without an end token is one that the horizon truncates.
    ended = (length < remaining) | jr.bernoulli(end_key, shape=(tries,))
    place = jnp.arange(time)[None]
    last = place == length[:, None] - 1
    tokens = jnp.where(last & ended[:, None], env.end_tokens[0], tokens)
    tokens = jnp.where(place < length[:, None], tokens, 0)
    return Turn(tokens.astype(jnp.int32), length, ended)


def _check_answers(
    env: AbstractEnvironment, answers: TimeStep, live: Bool[np.ndarray, " try"], where
):
    _check_shapes(answers, live.size, where)
    if not live.any():
        return
    width = answers.reply.shape[1]
    length = np.asarray(answers.reply_length)[live]
    done = np.asarray(answers.done)[live]
    require(
        bool(((length >= 0) & (length <= width)).all()),
        f"{where}A reply's length is between 0 and its width, {width}. Received "
        f"{length.min()} to {length.max()}.",
    )
    require(
        width <= env.max_completion_length,
        f"{where}A reply fits the horizon, max_completion_length="
        f"{env.max_completion_length}. Received a reply of width {width}.",
    )
    inside = np.arange(width)[None] < length[:, None]
    reply = np.asarray(answers.reply)[live][inside]
    _check_tokens(env, reply, f"{where}Reply tokens")
    if env.max_turns == 1:
        require(
            bool(done.all()) and width == 0,
            f"{where}A single-turn environment answers `done=True` and replies nothing "
            f"(a reply of width 0). Received a reply of width {width} and done={done}.",
        )
    for name, reward in answers.rewards.items():
        values = np.asarray(reward)[live]
        # Only where there are several tasks does a component not apply to one.
        tasks = isinstance(env, AbstractDatasetEnvironment) and env.tasks
        bad = np.isinf(values) if tasks else ~np.isfinite(values)
        finite = np.issubdtype(reward.dtype, np.floating) and not bad.any()
        require(
            bool(finite),
            f"{where}Rewards are finite floats. Received {name!r} of {reward.dtype} "
            f"with values {values}.",
        )


def _check_over(answers: TimeStep, done: Bool[np.ndarray, " try"], where: str):
    """Conversations that were over before this turn."""
    require(
        bool(np.asarray(answers.done)[done].all()),
        f"{where}A conversation that is over stays so. Received `done=False` after "
        "`done=True`.",
    )
    for name, reward in answers.rewards.items():
        paid = np.asarray(reward)[done]
        paid = paid[~np.isnan(paid) & (paid != 0)]
        require(
            paid.size == 0,
            f"{where}A turn after `done` is paid nothing. Received {name!r} of "
            f"{', '.join(map(str, np.unique(paid)[:4]))}.",
        )


def _check_shapes(answers: TimeStep, tries: int, where: str):
    scalars = {"reply_length": answers.reply_length, "done": answers.done}
    for name, value in (scalars | answers.rewards).items():
        require(
            value.shape == (tries,),
            f"{where}`{name}` is one scalar for each conversation. Received the shape "
            f"{value.shape[1:]}.",
        )
    reply, done = answers.reply, answers.done
    require(
        reply.ndim == 2 and np.issubdtype(reply.dtype, np.integer),
        f"{where}A reply is one row of token ids. Received the shape {reply.shape[1:]} "
        f"and {reply.dtype}.",
    )
    require(
        done.dtype == np.bool_, f"{where}`done` is a boolean. Received {done.dtype}."
    )
    dtype = answers.reply_length.dtype
    require(
        np.issubdtype(dtype, np.integer),
        f"{where}`reply_length` is an integer. Received {dtype}.",
    )


def _check_constants(
    env: AbstractEnvironment, state: PyTree, turn: Turn, key: Key[Array, ""]
):
    arrays, static = eqx.partition(env, eqx.is_array)

    def both(arrays, state, turn, key):
        env = eqx.combine(arrays, static)
        return env.reset(key), env.step(state, turn)

    constants = jax.make_jaxpr(both)(arrays, state, turn, key).consts
    size = sum(np.asarray(c).nbytes for c in constants if eqx.is_array(c))
    require(
        size <= _LARGEST_CONSTANT,
        "An environment's data are array leaves, so that they are arguments of the "
        f"compiled step. Received {size} bytes of constants inside it: make them "
        "`jax.Array` fields of the module.",
    )
