"""Shapings and rewards that only recipes need."""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp

from ....policy import AbstractPolicy
from ....text import AbstractTokenizer
from ....types import Rewards, Trajectory
from ....update import FrozenJudge


def shuffled(trajectory: Trajectory, rewards: Rewards) -> Rewards:
    """A negative control: every prompt's rows get the rewards of its neighbor's rows.

    The totals have the same values and do not depend on the rows that get them, so an
    improvement under this shaping is not due to the rewards.
    """
    del trajectory
    return dataclasses.replace(rewards, total=jnp.roll(rewards.total, 1, axis=0))


def frozen_judge(
    load: Callable[[str], AbstractPolicy],
    tokenizer: AbstractTokenizer,
    path: str,
    template: str,
    answer: str = "Yes",
    against: str | None = None,
    chat: bool = False,
    tokens: int | None = None,
    name: str = "judge",
) -> FrozenJudge:
    """A judge of the policy's tokenizer inside the program; see `update.FrozenJudge`.

    **Arguments:**

    - `load`: loads a frozen model from a path.
    - `tokenizer`: the policy's.
    - `path`: as `model.path`.

    The others are those of `FrozenJudge.of`.

    **Raises:** `ValueError` for an answer that YAML has read as something else.
    """
    if not isinstance(answer, str) or not isinstance(against, str | None):
        raise ValueError(
            "`answer` and `against` are texts. Received "
            f"{answer!r} and {against!r}: put them in quotes, as YAML takes Yes for "
            "true."
        )
    return FrozenJudge.of(
        load(path),
        tokenizer,
        template,
        answer=answer,
        against=against,
        chat=chat,
        tokens=tokens,
        name=name,
    )
