"""Configuration of the update phase."""

import equinox as eqx

from ..sharding import spmd


class UpdateConfig(eqx.Module):
    """Optimizer updates of a step, and how their gradients are computed.

    **Fields:**

    - `epochs`: passes over the trajectory.
    - `minibatches`: optimizer updates per epoch, each on an equal share of the prompts.
    - `tokens`: the most tokens of a microbatch, in each data-parallel shard. Rows are
        packed into microbatches, whose gradients are accumulated: the result does not
        depend on it. Memory follows it, and not the horizon: a row that is longer is
        run in chunks. By default 512 on a CPU, 16,384 on a GPU and 8,192 on a TPU.
    - `microbatches`: the same, as a share of a minibatch in which every row is as long
        as `max_completion_length`: `tokens` = rows · time / microbatches.
    - `recompute`: whether to recompute old log-probs with the policy before the first
        update, instead of using those recorded by the sampler. `None` means only if
        the objective has an importance correction, which compares the two.
    - `chunk`: number of positions whose logits are materialized at a time; by default
        as many as fit 2²³ logits on a CPU, 2²⁹ on a GPU and 2²⁸ on a TPU.

    **Raises:** `ValueError` if a count is not a positive integer, and if both `tokens`
    and `microbatches` are given.

    !!! example

        ```python
        update = UpdateConfig(epochs=2, minibatches=4)
        ```
    """

    epochs: int = eqx.field(static=True, default=1)
    minibatches: int = eqx.field(static=True, default=1)
    tokens: int | None = eqx.field(static=True, default=None)
    microbatches: int | None = eqx.field(static=True, default=None)
    recompute: bool | None = eqx.field(static=True, default=None)
    chunk: int | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        check_count("epochs", self.epochs)
        check_count("minibatches", self.minibatches)
        for name in ("tokens", "microbatches", "chunk"):
            count = getattr(self, name)
            if count is not None:
                check_count(name, count)
        if not isinstance(self.recompute, bool | None):
            raise ValueError(
                f"recompute must be True, False or None. Received {self.recompute!r}."
            )
        if self.tokens is not None and self.microbatches is not None:
            raise ValueError(
                "tokens and microbatches both say how large a microbatch is. Received "
                f"tokens={self.tokens} and microbatches={self.microbatches}: leave one "
                "of them out."
            )

    def microbatch_tokens(self, padded: int) -> int:
        """The most tokens of a microbatch, in each data-parallel shard.

        **Arguments:**

        - `padded`: tokens of a minibatch in each shard, if every row were as long as
            the horizon.
        """
        if self.tokens is not None:
            return self.tokens
        if self.microbatches is not None:
            return -(-padded // self.microbatches)
        return _TOKENS.get(spmd.platform(), _TOKENS["cpu"])


# A CPU's products are fast from a few hundred rows on, and the last microbatch is half
# empty; an accelerator reads all weights, and writes their gradients, for each.
_TOKENS = {"cpu": 512, "gpu": 16384, "tpu": 8192}


def check_count(name: str, count: int):
    """Raises a `ValueError` unless `count` is a positive integer."""
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise ValueError(f"{name} must be a positive integer. Received {count!r}.")
