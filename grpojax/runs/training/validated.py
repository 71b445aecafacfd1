"""Errors of compiled checks, with the number of the step that they happened in."""

import contextlib
from collections.abc import Iterator

import equinox as eqx
import jax

from ...validation import ValidationError


@contextlib.contextmanager
def naming_step(step: int) -> Iterator[None]:
    """Re-raises a failed run-time check with the step's number in its message.

    A compiled program cannot put a number that it computes into a message.

    **Raises:** `ValidationError`.
    """
    try:
        yield
    except (eqx.EquinoxRuntimeError, jax.errors.JaxRuntimeError) as error:
        message = str(error)
        # Those of `grpojax.validate` say which stage; others are not ours to explain.
        if "stage '" not in message:
            raise
        found = next(line for line in message.splitlines() if "stage '" in line)
        raise ValidationError(f"step {step}, {found.strip()}") from None
