"""Data types exchanged by the four phases, and the axis names in shape annotations.

Axis names never change meaning: `prompt` counts different prompts, `group` samples of
one prompt, `prefix` prompt positions and `time` completion positions.
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

    @property
    def lengths(self) -> Int[Array, "prompt group"]:
        """Number of sampled tokens in each row."""
        return jnp.sum(self.sampled, axis=-1)

    def take(self, prompts: Int[Array, " taken"]) -> "Trajectory":
        """The trajectory of the given prompt indices."""
        return jax.tree.map(lambda x: x[prompts] if x.ndim else x, self)


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
    """

    total: Float[Array, "prompt group"]
    components: dict[str, Float[Array, "prompt group"]]
    weights: dict[str, Float[Array, ""]]
    valid: Bool[Array, "prompt group"]
    keep: Bool[Array, "prompt group"]
    lengths: Int[Array, "prompt group"]
    errors: dict[str, Bool[Array, "prompt group"]] = eqx.field(default_factory=dict)

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


class TrainState(eqx.Module):
    """Train state: the carry of the training loop.

    **Fields:**

    - `policy`: the policy that is trained, an Equinox module.
    - `opt_state`: the optax optimizer's state over the policy's trainable arrays.
    - `reference`: the reference policy of a KL penalty, a function that extracts it
        from `policy`, or `None`.
    - `version`: number of steps taken, `Int[]`.
    - `key`: root PRNG key; each step uses `fold_in(key, version)`.
    - `curriculum`: the memory of the step's curriculum, or `None`.
    """

    policy: PyTree
    opt_state: PyTree
    reference: PyTree | None
    version: Int[Array, ""]
    key: Key[Array, ""]
    curriculum: PyTree = None


Metrics = dict[str, Float[Array, ""]]
