"""State of the decode loop, carried from token to token."""

import equinox as eqx
from jaxtyping import Array, Bool, Float, Int, PyTree

from ._slot_cache import SlotCache


class Completions(eqx.Module):
    """Decoded tokens of every row so far.

    **Fields:**

    - `tokens`, `sampled`, `log_prob`, `terminated`, `rewards`: as in `Trajectory`, one
        row for each completion.
    - `env_state`: the state of each row's conversation.
    """

    tokens: Int[Array, "row time"]
    sampled: Bool[Array, "row time"]
    log_prob: Float[Array, "row time"]
    terminated: Bool[Array, " row"]
    rewards: dict[str, Float[Array, " row"]]
    env_state: PyTree


class DecodeSlots(eqx.Module):
    """Progress of the row that each slot decodes.

    **Fields:**

    - `row`: which row; the number of rows, which is out of bounds, for an idle slot.
    - `age`: the row's completion tokens so far, sampled or forced.
    - `token`: the next token to read.
    - `turn`: how many turns are over.
    - `turn_start`: where the current turn begins, completion position.
    - `reply_start`: where the last reply begins: positions from there to `turn_start`
        are forced to `reply`.
    - `reply`: the environment's last reply.
    - `stop`: the state of the environment's stop string, in the current turn.
    """

    row: Int[Array, " slot"]
    age: Int[Array, " slot"]
    token: Int[Array, " slot"]
    turn: Int[Array, " slot"]
    turn_start: Int[Array, " slot"]
    reply_start: Int[Array, " slot"]
    reply: Int[Array, "slot reply"]
    stop: Int[Array, " slot"]


class DecodeState(eqx.Module):
    """Carry of the decode loop.

    **Fields:**

    - `iteration`: tokens read in every slot so far.
    - `next_row`: the first row that no slot has taken yet.
    - `slots`, `completions`: progress and results.
    - `cache`: keys and values of the slots' completions.
    - `prompt_cache`: each slot's copy of its prompt's cache; `None` without refills,
        where a group reads its prompt's cache in place.
    """

    iteration: Int[Array, ""]
    next_row: Int[Array, ""]
    slots: DecodeSlots
    cache: SlotCache
    prompt_cache: PyTree | None
    completions: Completions
