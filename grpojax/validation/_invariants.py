"""Invariant checks: eager on the host, or at run time in a compiled program."""

import dataclasses
from collections.abc import Sequence
from typing import TypeVar

import chex
import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array


_Value = TypeVar("_Value")


class ValidationError(ValueError):
    """An invariant is violated."""


class Invariants:
    """Checks concrete arrays; the first violated invariant raises."""

    def __init__(self, stage: str, step: int | Array | None):
        self.step = step
        self.sizes: dict[str, int] = {}
        self.enter(stage)

    def enter(self, stage: str):
        """Names the stage of the invariants that follow."""
        self.where = f"stage {stage!r}"
        if self.step is not None and not isinstance(self.step, jax.core.Tracer):
            self.where = f"step {int(self.step)}, {self.where}"

    def fail(self, invariant: str, received: str, remedy: str):
        raise ValidationError(
            f"{self.where}: {invariant}. Received {received}. {remedy}"
        )

    def shape(self, axes: str, **arrays: Array):
        """All arrays have these axes; an axis has one size throughout a stage."""
        names = axes.split()
        for name, array in arrays.items():
            expected = tuple(self.sizes.get(axis) for axis in names)
            try:
                chex.assert_shape(array, expected)
            except AssertionError:
                sizes = {axis: self.sizes[axis] for axis in names if axis in self.sizes}
                self.fail(
                    f"`{name}` has the shape [{axes}], with {sizes}",
                    str(array.shape),
                    "See `grpojax.types` for the axes of each field.",
                )
            self.sizes |= zip(names, array.shape, strict=True)

    def require(self, invariant: str, holds: Array, values: Array, remedy: str):
        """The invariant holds for all `values`."""
        broken = ~np.asarray(holds)
        if broken.any():
            index = tuple(int(i) for i in np.argwhere(broken)[0])
            value = np.broadcast_to(np.asarray(values), broken.shape)[index]
            count = f"{int(broken.sum())} of {broken.size} violate it"
            self.fail(invariant, f"{value} at index {index}; {count}", remedy)


class TracedInvariants(Invariants):
    """Collects the checks of traced arrays, whose values are known at run time."""

    def __init__(self, stage: str, step: int | Array | None):
        super().__init__(stage, step)
        self.broken: list[Array] = []
        self.messages: list[str] = []

    def require(self, invariant: str, holds: Array, values: Array, remedy: str):
        del values  # Not known while tracing.
        self.broken.append(~jnp.all(holds))
        self.messages.append(f"{self.where}: {invariant}. {remedy}")

    def attach_to(self, value: _Value) -> _Value:
        """The value, whose use raises the first violated invariant at run time."""
        broken = jnp.stack(self.broken)
        violated, index = jnp.any(broken), jnp.argmax(broken)
        step = self.step if isinstance(self.step, jax.core.Tracer) else None
        if step is not None:
            # Under `vmap` the message of the largest index is raised: only those of
            # violations may count.
            index = jnp.where(violated, step * len(self.broken) + index, 0)
        messages = _Messages(tuple(self.messages), numbered=step is not None)
        return eqx.branched_error_if(value, violated, index, messages)


@dataclasses.dataclass(frozen=True)
class _Messages(Sequence[str]):
    """Messages that are formatted when one is raised, with the number of the step.

    The index of a message is all that a compiled program sends to the host. It encodes
    a traced step as well: `index = step · len(messages) + message`.
    """

    messages: tuple[str, ...]
    numbered: bool

    def __getitem__(self, index):
        step, message = divmod(index, len(self.messages))
        prefix = f"step {step}, " if self.numbered else ""
        return prefix + self.messages[message]

    def __len__(self) -> int:
        return len(self.messages)
