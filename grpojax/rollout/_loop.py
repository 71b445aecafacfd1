"""What the decode loop carries from token to token."""

import equinox as eqx
from jaxtyping import Array, Bool, Float, Int, PyTree


class Rows(eqx.Module):
    """What has been decoded so far, by row; `env_state` is the conversation's."""

    tokens: Int[Array, "row time"]
    sampled: Bool[Array, "row time"]
    log_prob: Float[Array, "row time"]
    terminated: Bool[Array, " row"]
    rewards: dict[str, Float[Array, " row"]]
    env_state: PyTree


class Lanes(eqx.Module):
    """What each slot is doing; `row` is past the last row when none was left.

    `age` counts the row's completion tokens, sampled or forced, and `token` is the
    one to read next. Columns from `reply_start` to `turn_start` are forced to `reply`.
    """

    row: Int[Array, " slot"]
    age: Int[Array, " slot"]
    token: Int[Array, " slot"]
    turn: Int[Array, " slot"]
    turn_start: Int[Array, " slot"]
    reply_start: Int[Array, " slot"]
    reply: Int[Array, "slot reply"]


class Loop(eqx.Module):
    """What the loop carries; `copies` is each lane's prompt cache, if lanes refill."""

    iteration: Int[Array, ""]
    next_row: Int[Array, ""]
    lanes: Lanes
    cache: PyTree
    copies: PyTree | None
    rows: Rows
