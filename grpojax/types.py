"""Data types exchanged by the four phases, and the axis names in shape annotations.

Axis names never change meaning: `prompt` counts different prompts, `group` samples of
one prompt, `prefix` prompt positions, `time` completion positions and `turn` the turns
of a conversation.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, DTypeLike, Float, Int, Key, Num, PyTree


FloatLike = float | int | Float[Array, ""]
"""A hyperparameter; as an array it can be swept by `vmap` without recompiling."""


def accumulation_dtype(dtype: DTypeLike) -> jnp.dtype:
    """The dtype that values are accumulated in: float32, but float64 for float64.

    **Arguments:**

    - `dtype`: of the values.
    """
    wide = jnp.dtype(jnp.float64)
    return wide if jnp.dtype(dtype) == wide else jnp.dtype(jnp.float32)


class Axes(NamedTuple):
    """Logical axes of one array of a policy; see `grpojax.sharding`.

    **Fields:**

    - `names`: one per axis, such as `("layer", "hidden", "heads")`; `None` for one that
        is never sharded.
    - `pieces`: maximum number of shards of each axis: its size, or the number of heads
        for an axis of concatenated heads.
    """

    names: tuple[str | None, ...]
    pieces: tuple[int, ...]


class Prompt(eqx.Module):
    """Prompt tokens, right-padded to a static width.

    **Fields:**

    - `tokens`: token ids, `Int[*batch prefix]`; padding is ignored.
    - `length`: number of tokens without padding, `Int[*batch]`, at least 1.
    """

    tokens: Int[Array, "*batch prefix"]
    length: Int[Array, "*batch"]


class TurnRewards(eqx.Module):
    """What each turn of a conversation was paid, and where it ended.

    **Fields:**

    - `ends`: tokens of the completion up to the end of each turn, replies of turns
        before it included; 0 for a turn that was not taken.
    - `rewards`: the environment's rewards of the turn by component; 0 for a turn that
        was not taken. Their sums over turns are `Trajectory.rewards`.
    """

    ends: Int[Array, "*batch turn"]
    rewards: dict[str, Float[Array, "*batch turn"]]


class Trajectory(eqx.Module):
    """One batch of sampled completions with behavior log-probs and rewards.

    Completions are right-padded with 0. The token that ends a turn is `sampled`.

    **Fields:**

    - `prompt`: the prompts, one per group, `Prompt[prompt prefix]`.
    - `tokens`: completion token ids, `Int[prompt group time]`.
    - `sampled`: mask of the tokens sampled by the policy, which alone enter the loss,
        `Bool[prompt group time]`; the others are padding or environment replies.
    - `log_prob`: natural log-probability under the behavior policy at `temperature`,
        recorded when the token was sampled, `Float[prompt group time]`; 0 elsewhere.
    - `version`: version of the policy that sampled the token, `Int[prompt group time]`;
        -1 elsewhere.
    - `terminated`: rows that sampled an end token, `Bool[prompt group]`; the others
        were truncated.
    - `rewards`: the environment's rewards by component, `Float[prompt group]` each.
    - `temperature`: sampling temperature, `Float[]`. The loss and all log-probs of
        these tokens divide the logits by it.
    - `states`: initial environment states, stacked over prompts, for reward functions
        that need the reference answer; `None` if unknown.
    - `problems`: the number of each prompt's problem in its environment,
        `Int[prompt]`; `None` for an environment without numbered problems.
    - `vocab_size`: the environment's, static. Tokens from there on had probability 0,
        and have in the loss and in all log-probs of these tokens; `None` if the
        distribution was over all of the policy's logits.
    - `rows`: the columns of the environment's problems, on the host, for reward
        functions in Python; `None` if it has none. It is a `Rows`, and static.
    - `turns`: the rewards of single turns, `TurnRewards[prompt group turn]`; `None` for
        an environment of a single turn.
    - `dropped`: rows that the rollout could not finish or has rejected,
        `Bool[prompt group]`: no reward applies to them. `None` if it never does.
    - `counts`: what the rollout has counted in each row by name, such as calls of
        tools, `Int[prompt group]` each.
    """

    prompt: Prompt
    tokens: Int[Array, "prompt group time"]
    sampled: Bool[Array, "prompt group time"]
    log_prob: Float[Array, "prompt group time"]
    version: Int[Array, "prompt group time"]
    terminated: Bool[Array, "prompt group"]
    rewards: dict[str, Float[Array, "prompt group"]]
    temperature: Float[Array, ""]
    states: PyTree = None
    problems: Int[Array, " prompt"] | None = None
    vocab_size: int | None = eqx.field(static=True, default=None)
    rows: Mapping[str, Sequence[object]] | None = eqx.field(static=True, default=None)
    turns: TurnRewards | None = None
    dropped: Bool[Array, "prompt group"] | None = None
    counts: dict[str, Int[Array, "prompt group"]] = eqx.field(default_factory=dict)

    @property
    def lengths(self) -> Int[Array, "prompt group"]:
        """Number of sampled tokens in each row."""
        return jnp.sum(self.sampled, axis=-1)

    def take(self, prompts: Int[Array, " taken"]) -> "Trajectory":
        """The trajectory of the given prompt indices."""
        return jax.tree.map(lambda x: x[prompts] if x.ndim else x, self)


class TurnTotals(eqx.Module):
    """The rewards of single turns, weighted and summed: what credit is given by.

    **Fields:**

    - `total`: the weighted sum of each turn's components, `Float[prompt group turn]`;
        what is paid for the whole conversation is paid at its last turn.
    - `sum`: the total of the conversation that these are the parts of, `Float[prompt
        group]`. What a shaping has added to `Rewards.total` since is the difference.
    - `taken`: the turns that were taken, `Bool[prompt group turn]`.
    - `turn_of_token`: the number of each token's turn, `Int[prompt group time]`; that
        of the next turn for a reply, and of the last one for padding.
    """

    total: Float[Array, "prompt group turn"]
    sum: Float[Array, "prompt group"]
    taken: Bool[Array, "prompt group turn"]
    turn_of_token: Int[Array, "prompt group time"]

    def with_last(
        self, amount: Float[Array, "prompt group"]
    ) -> Float[Array, "prompt group turn"]:
        """The totals of turns, with a further amount at the last one taken."""
        number = jnp.arange(self.taken.shape[-1], dtype=jnp.int32)
        last = jnp.sum(self.taken, axis=-1, keepdims=True, dtype=jnp.int32) - 1
        return self.total + jnp.where(number == last, amount[..., None], 0)


class Rewards(eqx.Module):
    """Rewards of a batch: their weighted total, its components, and two masks.

    **Fields:**

    - `total`: the reward that is maximized, `Float[prompt group]`.
    - `components`: its terms by name, before weighting, `Float[prompt group]` each; NaN
        where a component does not apply to a row.
    - `weights`: the weight of each component in `total`, `Float[]` each.
    - `valid`: rows to which a reward applies, `Bool[prompt group]`. The others are
        excluded from every statistic and get advantage 0.
    - `keep`: rows that may be trained on, `Bool[prompt group]`. The others may still
        count in statistics.
    - `lengths`: number of sampled tokens in each row, `Int[prompt group]`.
    - `errors`: rows on which a host function failed, by component, `Bool[prompt group]`
        each; only components that can fail have an entry.
    - `turns`: the rewards of single turns; `None` for conversations of a single turn.
    """

    total: Float[Array, "prompt group"]
    components: dict[str, Float[Array, "prompt group"]]
    weights: dict[str, Float[Array, ""]]
    valid: Bool[Array, "prompt group"]
    keep: Bool[Array, "prompt group"]
    lengths: Int[Array, "prompt group"]
    errors: dict[str, Bool[Array, "prompt group"]] = eqx.field(default_factory=dict)
    turns: TurnTotals | None = None

    @classmethod
    def of(
        cls,
        total: Num[ArrayLike, "prompt group"],
        *,
        name: str = "reward",
        valid: Bool[ArrayLike, "*#rows"] = True,
        lengths: Int[ArrayLike, "*#rows"] = 1,
    ) -> "Rewards":
        """Rewards with a single component, which is the total.

        **Arguments:**

        - `total`: any array of numbers; flat rows are prompts of one sample each,
            `total[:, None]`.
        - `name`: the component's name.
        - `valid`, `lengths`: as the fields; a scalar is broadcast to all rows.

        !!! example

            ```python
            GroupNormalized()(Rewards.of(jnp.array([[1.0, 0.0], [0.0, 0.0]])))
            ```
        """
        total = jnp.asarray(total, jnp.result_type(float))
        valid = jnp.broadcast_to(jnp.asarray(valid, bool), total.shape)
        return cls(
            total=jnp.where(valid, total, 0),
            components={name: jnp.where(valid, total, jnp.nan)},
            weights={name: jnp.ones((), total.dtype)},
            valid=valid,
            keep=jnp.ones(total.shape, bool),
            lengths=jnp.broadcast_to(jnp.asarray(lengths, jnp.int32), total.shape),
        )


class PastPolicy(eqx.Module):
    """A policy of an earlier version, and what it is to be asked.

    **Fields:**

    - `params`: its trainable arrays, `None` elsewhere.
    - `problems`: the numbers of the problems that the curriculum drew at that version,
        `Int[prompt]`; `None` without a curriculum.
    """

    params: PyTree
    problems: Int[Array, " prompt"] | None


class TrainState(eqx.Module):
    """Train state: the carry of the training loop.

    **Fields:**

    - `policy`: the policy that is trained, an Equinox module.
    - `opt_state`: the optax optimizer's state over the policy's trainable arrays.
    - `reference`: the reference policy of a KL penalty, a function that extracts it
        from `policy`, or `None`.
    - `version`: number of steps taken, `Int[]`.
    - `key`: root PRNG key, from which all keys of all steps are folded.
    - `curriculum`: the memory of the step's curriculum, or `None`.
    - `past`: the policies of the versions before, the oldest first, as many as
        `RolloutConfig.staleness` needs; versions before 0 are version 0.
    - `partial`: rows of `RolloutConfig.partial_prompts`, or `None`.
    - `average`: the average of the policy's trainable arrays, or `None`.
    """

    policy: PyTree
    opt_state: PyTree
    reference: PyTree | None
    version: Int[Array, ""]
    key: Key[Array, ""]
    curriculum: PyTree = None
    past: tuple[PastPolicy, ...] = ()
    partial: PyTree = None
    average: PyTree = None


Metrics = dict[str, Float[Array, ""]]
