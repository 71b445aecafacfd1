"""A small environment with numbered problems."""

import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Int

from grpojax.env import AbstractDatasetEnvironment, Rows

from ..helpers import CountEnv


ROWS = Rows({"level": [0, 1, 2, 0, 1, 2, 0], "task": list("abcdefg")})


class NumberedEnv(CountEnv, AbstractDatasetEnvironment[Int[Array, ""]]):
    """`CountEnv` with seven problems."""

    size: int = 7

    @property
    def rows(self):
        return ROWS

    def reset(self, key):
        return self.problem(self.draw(key))

    def problem(self, index):
        return CountEnv.reset(self, jr.key(index))


def numbered_env(ends=(1, 2, 3, 4, 5), target: int = 7, **sizes) -> NumberedEnv:
    return NumberedEnv(jnp.asarray(ends), jnp.asarray(target), **sizes)
