"""The values that fly between the four phases, and the shape alphabet.

The shape words never change meaning: `prompt` counts rows of different prompts,
`group` counts samples of one prompt, `prefix` counts prompt positions and `time`
counts completion positions.
"""

from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Key, Num, PyTree


FloatLike = float | Float[Array, ""]
"""A hyperparameter; as an array it can be swept by `vmap` without recompiling."""


class Axes(NamedTuple):
    """The logical axes of one array of a policy; see `grpojax.sharding`.

    **Fields:**

    - `names`: of each axis, such as `("layer", "hidden", "heads")`; `None` for one that
        is never cut.
    - `pieces`: into how many parts each axis may be cut: its size, or for an axis of
        heads that lie side by side the number of heads.
    """

    names: tuple[str | None, ...]
    pieces: tuple[int, ...]


class Prompt(eqx.Module):
    """What the policy reads before it speaks, right-padded to a static width.

    **Fields:**

    - `tokens`: token ids, `Int[*batch prefix]`; what lies past `length` is ignored.
    - `length`: how many of them are real, `Int[*batch]`, at least 1.
    """

    tokens: Int[Array, "*batch prefix"]
    length: Int[Array, "*batch"]


class Trajectory(eqx.Module):
    """What one rollout said, and what it was paid for it.

    Completions are right-padded; the token that ends a turn belongs to `sampled`;
    what a row holds after its end is 0.

    **Fields:**

    - `prompt`: the prompts, once for their whole group, `Prompt[prompt prefix]`.
    - `tokens`: completion token ids, `Int[prompt group time]`.
    - `sampled`: chosen by the policy: the only tokens ever trained on.
    - `log_prob`: natural log-probability under the behavior policy, recorded when
        the token was sampled; 0 elsewhere.
    - `version`: the policy version that sampled the token; -1 elsewhere.
    - `terminated`: whether the row said its end token; the others were truncated.
    - `rewards`: what the environment paid, by component, `Float[prompt group]` each.
    - `states`: the environment's states as the conversations started, stacked over
        prompts, for rewards that ask what the answer was; `None` if they are unknown.
    """

    prompt: Prompt
    tokens: Int[Array, "prompt group time"]
    sampled: Bool[Array, "prompt group time"]
    log_prob: Float[Array, "prompt group time"]
    version: Int[Array, "prompt group time"]
    terminated: Bool[Array, "prompt group"]
    rewards: dict[str, Float[Array, "prompt group"]]
    states: PyTree = None

    @property
    def lengths(self) -> Int[Array, "prompt group"]:
        """How many tokens the policy sampled in each row."""
        return jnp.sum(self.sampled, axis=-1)


class Rewards(eqx.Module):
    """What the reward phase hands to the advantage phase.

    **Fields:**

    - `total`: the scalar that is maximized, `Float[prompt group]`.
    - `components`: its parts by name, before weighting, `Float[prompt group]` each; NaN
        where a component does not apply to a row.
    - `weights`: the weight of each component in `total`, `Float[]` each.
    - `valid`: rows whose reward applies, `Bool[prompt group]`. The others stand
        outside every statistic and get advantage 0.
    - `keep`: rows that may be trained on. The others may stand in the statistics.
    - `lengths`: sampled tokens of each row, `Int[prompt group]`.
    - `errors`: rows on which a host function failed, by component, `Bool[prompt group]`
        each; only components that can fail are there.
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
        """Rewards of one component that is the total.

        **Arguments:**

        - `total`: any array of numbers; flat rows are prompts of one sample each,
            `total[:, None]`.
        - `name`: of the component.
        - `valid`, `lengths`: as the fields; one value stands for all rows.

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
    """What evolves from step to step, and nothing else.

    **Fields:**

    - `policy`: the policy that is trained, an Equinox module.
    - `opt_state`: the state of the optax optimizer over the arrays that are trained.
    - `reference`: a frozen policy for a KL penalty, what finds it in `policy`, or
        `None`.
    - `version`: how many steps have been taken, `Int[]`.
    - `key`: the key that every later random draw is folded from.
    """

    policy: PyTree
    opt_state: PyTree
    reference: PyTree | None
    version: Int[Array, ""]
    key: Key[Array, ""]


Metrics = dict[str, Float[Array, ""]]
