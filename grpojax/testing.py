"""The conformance checks that our own tests and third parties call.

Each raises `AssertionError` with the law that does not hold and what was seen instead.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Key, PyTree

from .env import AbstractEnvironment, Turn
from .policy import (
    AbstractPolicy,
    completion_hidden,
    empty_cache,
    log_prob,
    logits,
    Past,
)
from .types import Prompt


# A data set compiled into the program is recompiled with it; scalars and small tables
# are not worth an argument.
_LARGEST_CONSTANT = 2**16


def _require(law: bool, message: str):
    if not law:
        raise AssertionError(message)


def _shape(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: (jnp.shape(x), jnp.result_type(x)), tree)


def check_env(env: AbstractEnvironment, *, key: Key[Array, ""], tries: int = 16):
    """Checks that an environment keeps the contract of `AbstractEnvironment`.

    `reset` and `step` are pure, vmappable and total; sizes are what the fields say;
    states keep their shape; names of rewards do not change; data are arguments.

    **Arguments:**

    - `env`: the environment.
    - `key`: draws conversations and arbitrary turns.
    - `tries`: how many of them.

    **Raises:** `AssertionError` naming the law that does not hold.

    !!! example

        ```python
        grpojax.testing.check_env(env, key=jax.random.key(0))
        ```
    """
    reset_key, turn_key = jr.split(key)
    keys = jr.split(reset_key, tries)
    reset = eqx.filter_jit(lambda keys: jax.vmap(env.reset)(keys))
    states, prompts = reset(keys)
    again = reset(keys)
    _require(
        bool(eqx.tree_equal((states, prompts), again)),
        "`reset` is pure: the same key must start the same conversation.",
    )
    _check_prompts(env, prompts)
    turns = _arbitrary_turns(env, turn_key, tries)
    step = eqx.filter_jit(lambda state, turn: jax.vmap(env.step)(state, turn))
    after, answers = step(states, turns)
    _check_answers(env, answers)
    _require(
        bool(eqx.tree_equal((after, answers), step(states, turns))),
        "`step` is pure: the same state and turn must get the same answer.",
    )
    _require(
        _shape(after) == _shape(states),
        "A state keeps its structure, shapes and dtypes from `reset` through `step`. "
        f"Received {_shape(states)} before and {_shape(after)} after.",
    )
    first = lambda tree: jax.tree.map(lambda x: x[0], tree)
    _check_constants(env, first(states), first(turns), keys[0])


def _check_prompts(env: AbstractEnvironment, prompts: Prompt):
    tries = prompts.length.shape[0]
    wanted = (tries, env.max_prompt_length)
    _require(
        prompts.tokens.shape == wanted,
        "Prompts are padded to `max_prompt_length`. Received tokens of shape "
        f"{prompts.tokens.shape[1:]} for max_prompt_length={env.max_prompt_length}.",
    )
    length = np.asarray(prompts.length)
    _require(
        bool(((length >= 1) & (length <= env.max_prompt_length)).all()),
        "A prompt's length is between 1 and max_prompt_length="
        f"{env.max_prompt_length}. Received {length.min()} to {length.max()}.",
    )
    inside = np.arange(env.max_prompt_length)[None] < length[:, None]
    tokens = np.asarray(prompts.tokens)[inside]
    _require(
        bool(((tokens >= 0) & (tokens < env.vocab_size)).all()),
        f"Prompt tokens are below vocab_size={env.vocab_size} and not negative. "
        f"Received {tokens.min()} to {tokens.max()}.",
    )


def _arbitrary_turns(env: AbstractEnvironment, key: Key[Array, ""], tries: int) -> Turn:
    token_key, length_key, end_key = jr.split(key, 3)
    time = env.max_completion_length
    tokens = jr.randint(token_key, (tries, time), 0, env.vocab_size, jnp.int32)
    length = jr.randint(length_key, (tries,), 1, time + 1, jnp.int32)
    ended = jr.bernoulli(end_key, shape=(tries,))
    last = jnp.arange(time)[None] == length[:, None] - 1
    tokens = jnp.where(last & ended[:, None], env.end_tokens[0], tokens)
    tokens = jnp.where(jnp.arange(time)[None] < length[:, None], tokens, 0)
    return Turn(tokens.astype(jnp.int32), length, ended)


def _check_answers(env: AbstractEnvironment, answers):
    width = answers.reply.shape[1]
    length = np.asarray(answers.reply_length)
    _require(
        bool(((length >= 0) & (length <= width)).all()),
        f"A reply's length is between 0 and its width, {width}. Received "
        f"{length.min()} to {length.max()}.",
    )
    reply = np.asarray(answers.reply)[np.arange(width)[None] < length[:, None]]
    _require(
        bool(((reply >= 0) & (reply < env.vocab_size)).all()),
        f"Reply tokens are below vocab_size={env.vocab_size} and not negative.",
    )
    _require(
        answers.done.dtype == jnp.bool_,
        f"`done` is a boolean. Received {answers.done.dtype}.",
    )
    if env.max_turns == 1:
        _require(
            bool(answers.done.all()) and width == 0,
            "A single-turn environment answers `done=True` and replies nothing "
            f"(a reply of width 0). Received a reply of width {width} and done="
            f"{np.asarray(answers.done)}.",
        )
    _require(bool(answers.rewards), "An environment pays at least one component.")
    for name, paid in answers.rewards.items():
        _require(
            jnp.issubdtype(paid.dtype, jnp.floating) and bool(jnp.isfinite(paid).all()),
            f"Rewards are finite floats. Received {name!r} of {paid.dtype} with values "
            f"{np.asarray(paid)}.",
        )


def _check_constants(env: AbstractEnvironment, state: PyTree, turn: Turn, key):
    arrays, static = eqx.partition(env, eqx.is_array)

    def both(arrays, state, turn, key):
        env = eqx.combine(arrays, static)
        return env.reset(key), env.step(state, turn)

    constants = jax.make_jaxpr(both)(arrays, state, turn, key).consts
    size = sum(np.asarray(c).nbytes for c in constants if eqx.is_array(c))
    _require(
        size <= _LARGEST_CONSTANT,
        "An environment's data are array leaves, so that they are arguments of the "
        f"compiled step. Received {size} bytes of constants inside it: make them "
        "`jax.Array` fields of the module.",
    )


def check_policy(
    policy: AbstractPolicy,
    *,
    key: Key[Array, ""],
    length: int = 12,
    tolerance: float = 1e-5,
):
    """Checks that a policy keeps the laws of `AbstractPolicy`.

    Prefill, decode and teacher forcing are one function; what a token cannot see cannot
    reach it, not even in its own chunk; a shared context equals the same tokens in the
    chunk's own cache.

    **Arguments:**

    - `policy`: computing in float32; lower precision needs a wider tolerance.
    - `key`: draws the tokens.
    - `length`: of the sequence.
    - `tolerance`: of logits, relative to their largest magnitude.

    **Raises:** `AssertionError` naming the law that does not hold.
    """
    token_key, other_key = jr.split(key)
    tokens = jr.randint(token_key, (length,), 0, policy.vocab_size)
    all_logits = eqx.filter_jit(logits)
    whole = all_logits(policy, tokens)
    _require(
        whole.shape == (length, policy.vocab_size) and whole.dtype == jnp.float32,
        f"Logits are float32 of shape {(length, policy.vocab_size)}. Received "
        f"{whole.dtype} of shape {whole.shape}.",
    )
    scale = tolerance * max(1.0, float(jnp.max(jnp.abs(whole))))

    def close(seen: Float[Array, "..."], wanted: Float[Array, "..."], law: str):
        gap = float(jnp.max(jnp.abs(seen - wanted)))
        _require(gap <= scale, f"{law} The largest difference is {gap:.3g}.")

    for chunks in ([1] * length, [length // 2, length - length // 2]):
        close(
            _in_chunks(policy.for_decoding(), tokens, chunks),
            whole,
            f"Any chunking of a sequence gives what the whole gives; {chunks} did not.",
        )
    other = jr.randint(other_key, (length,), 0, policy.vocab_size)
    half = length // 2
    changed = jnp.where(jnp.arange(length) < half, tokens, other)
    close(
        all_logits(policy, changed)[:half],
        whole[:half],
        "A token does not see later ones.",
    )
    padded = Prompt(
        jnp.concatenate([tokens[:half], other]), jnp.asarray(half, jnp.int32)
    )
    close(
        eqx.filter_jit(log_prob)(policy, padded, tokens[half:]),
        jnp.take_along_axis(
            jax.nn.log_softmax(whole[half - 1 : -1]), tokens[half:, None], axis=1
        )[:, 0],
        "Padding does not reach a completion, and a prompt's cache may be shared.",
    )
    rest = length - half
    together = jnp.concatenate([tokens[half:], other[half:]])
    each = jnp.stack([tokens[half:], other[half:]])
    position = jnp.arange(2 * rest) % rest
    hidden = eqx.filter_jit(completion_hidden)
    close(
        policy.logits(hidden(policy, padded, together, position=position)),
        policy.logits(hidden(policy, padded, each)).reshape(2 * rest, -1),
        "Completions that lie end to end in one stream do not see each other.",
    )


def _in_chunks(policy, tokens, chunks) -> Float[Array, "time vocab"]:
    """Logits by way of one cache whose columns are used back to front."""
    length = tokens.shape[0]
    cache = empty_cache(policy, 2 * length)
    extend = eqx.filter_jit(lambda policy, *args: policy.extend(*args))
    column, start, hidden = 2 * length, 0, []
    for size in chunks:
        # Where a key lies does not matter: chunks are written from the far end.
        seen = jnp.arange(2 * length) >= column
        chunk = slice(start, start + size)
        past = Past(cache, seen[None])
        out, written = extend(policy, tokens[chunk], jnp.arange(length)[chunk], past)
        column -= size
        cache = policy.write(cache, written, column)
        hidden.append(out)
        start += size
    return policy.logits(jnp.concatenate(hidden))
