"""Numbered prompts, and a policy that compiles in no time."""

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Int

from grpojax.env import AbstractDatasetEnvironment, Rows, TimeStep
from grpojax.types import Prompt

from ..envs.double import ByteTokenizer
from ..runs.training.values import Bigram


TOKENIZER = ByteTokenizer()
ROWS = Rows({"number": list(range(8)), "text": [f"no {i}" for i in range(8)]})
REPLY = " More: "


def bigram(end: float = 4.0) -> Bigram:
    """Says letters; `end` is the logit of the end token."""
    size = TOKENIZER.vocab_size
    table = 0.5 * jr.normal(jr.key(0), (size, size))
    letters = jnp.full(size, -20.0).at[98:123].set(0.0).at[0].set(end - 2.0)
    return Bigram(table + letters)


class Numbers(AbstractDatasetEnvironment[Int[Array, ""]]):
    """Prompts of one digit, and the reply `REPLY`; an early last letter pays."""

    end_tokens: Int[Array, " end"]
    size: int = eqx.field(static=True, default=8)
    vocab_size: int = eqx.field(static=True, default=TOKENIZER.vocab_size)
    max_prompt_length: int = eqx.field(static=True, default=1)
    max_completion_length: int = eqx.field(static=True, default=40)
    max_turns: int = eqx.field(static=True, default=1)

    @property
    def rows(self):
        return ROWS

    def problem(self, index):
        digit = jnp.asarray(index, jnp.int32) + 1 + ord("0")
        return jnp.asarray(0, jnp.int32), Prompt(digit[None], jnp.ones((), jnp.int32))

    def step(self, state, turn):
        reply = jnp.asarray(TOKENIZER.encode(REPLY if self.max_turns > 1 else ""))
        reply = reply.astype(jnp.int32)
        early = turn.tokens[jnp.maximum(turn.length - 2, 0)] < 110
        answer = TimeStep(
            reply=reply,
            reply_length=jnp.asarray(len(reply), jnp.int32),
            rewards={"early": early.astype(jnp.float32)},
            done=state + 1 >= self.max_turns,
        )
        return state + 1, answer


def numbers(**sizes) -> Numbers:
    return Numbers(jnp.zeros(1, jnp.int32), **sizes)
