"""Assertions whose message is the law that is broken."""

import chex
from jaxtyping import PyTree


def require(holds: bool, message: str):
    """Raises an `AssertionError` with the message unless the law holds."""
    if not holds:
        raise AssertionError(message)


def require_equal(one: PyTree, other: PyTree, law: str):
    """Two trees are equal to the last bit; NaN equals NaN."""
    try:
        chex.assert_trees_all_equal(one, other, strict=True)
    except AssertionError as error:
        raise AssertionError(f"{law} {error}") from None


def require_same_shapes(one: PyTree, other: PyTree, law: str):
    """Two trees have one structure, and equal shapes and dtypes of their leaves."""
    try:
        chex.assert_trees_all_equal_structs(one, other)
        chex.assert_trees_all_equal_shapes_and_dtypes(one, other)
    except AssertionError as error:
        raise AssertionError(f"{law} {error}") from None
