"""What environments of one turn have in common."""

import jax.numpy as jnp
from jaxtyping import Array, Bool

from grpojax.env import TimeStep, Turn
from grpojax.text import Bytes, to_bytes, TokenBytes


# Hardly any tokens are longer than this but runs of spaces, and answers stand at the
# end: of a completion with more bytes for each token, the beginning is not read.
BYTES_PER_TOKEN = 16


def text_of(token_bytes: TokenBytes, turn: Turn) -> Bytes:
    """What was said in a turn, as bytes."""
    time = turn.tokens.shape[0]
    said = jnp.arange(time, dtype=jnp.int32) < turn.length
    size = min(token_bytes.table.shape[1], BYTES_PER_TOKEN) * time
    return to_bytes(token_bytes, turn.tokens, said, size=size)


def last_step(**rewards: Bool[Array, ""]) -> TimeStep:
    """The end of the conversation; each reward is paid 0 or 1."""
    return TimeStep(
        reply=jnp.zeros(0, jnp.int32),
        reply_length=jnp.zeros((), jnp.int32),
        rewards={name: paid.astype(jnp.float32) for name, paid in rewards.items()},
        done=jnp.ones((), bool),
    )
