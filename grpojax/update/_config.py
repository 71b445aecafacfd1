"""Configuration of the update phase."""

import equinox as eqx


class UpdateConfig(eqx.Module):
    """Optimizer updates of a step, and how their gradients are computed.

    **Fields:**

    - `epochs`: passes over the trajectory.
    - `minibatches`: optimizer updates per epoch, each on an equal share of the prompts.
    - `microbatches`: gradient-accumulation steps per minibatch; the result does not
        depend on it. A prompt's rows are packed into streams as wide as
        `max_completion_length`, and a microbatch holds
        `prompts · group / microbatches` streams (from a subset of the prompts if
        there are more microbatches than `group`). More microbatches need less memory;
        microbatches without tokens are skipped. Defaults to `group`, one stream per
        prompt.
    - `recompute`: whether to recompute old log-probs with the policy before the first
        update, instead of using those recorded by the sampler. `None` means only if
        the objective has an importance correction, which compares the two.
    - `chunk`: number of positions whose logits are materialized at a time; by default
        as many as fit 2²³ logits on a CPU, 2²⁹ on a GPU and 2²⁸ on a TPU.

    **Raises:** `ValueError` if a count is not a positive integer.

    !!! example

        ```python
        update = UpdateConfig(epochs=2, minibatches=4)
        ```
    """

    epochs: int = eqx.field(static=True, default=1)
    minibatches: int = eqx.field(static=True, default=1)
    microbatches: int | None = eqx.field(static=True, default=None)
    recompute: bool | None = eqx.field(static=True, default=None)
    chunk: int | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        check_count("epochs", self.epochs)
        check_count("minibatches", self.minibatches)
        if self.microbatches is not None:
            check_count("microbatches", self.microbatches)
        if self.chunk is not None:
            check_count("chunk", self.chunk)


def check_count(name: str, count: int):
    """Raises a `ValueError` unless `count` is a positive integer."""
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise ValueError(f"{name} must be a positive integer. Received {count!r}.")
