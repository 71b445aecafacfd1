"""How a step's samples are used by the optimizer."""

import equinox as eqx


class UpdateConfig(eqx.Module):
    """Optimizer updates of a step, and how their gradients are computed.

    **Fields:**

    - `epochs`: passes over the trajectory.
    - `minibatches`: optimizer updates in each epoch, each on its share of the prompts.
    - `microbatches`: parts of a minibatch whose gradients are accumulated; the result
        does not depend on it. A prompt's rows are packed end to end into streams as
        wide as the horizon, and a microbatch holds `prompts · group / microbatches` of
        all streams (with more microbatches than samples, of some of the prompts): more
        microbatches take less memory, and streams that stay empty are not computed.
        `group` when `None`: as many streams as prompts.
    - `recompute`: whether old log-probs are computed with the policy before the first
        update, in place of those that the sampler recorded. When `None` they are if the
        objective has an importance correction, which compares the two.
    - `chunk`: positions whose logits exist at a time; by default what fits a block of
        2²³ logits on a CPU, 2²⁹ on a GPU and 2²⁸ on a TPU.

    **Raises:** `ValueError` for a count that is no positive integer.

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
    """Raises a `ValueError` for what is no positive integer."""
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise ValueError(f"{name} must be a positive integer. Received {count!r}.")
