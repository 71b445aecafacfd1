"""LoRA: transformations of a policy, none of which touches its base."""

import dataclasses
import difflib
from collections.abc import Callable, Mapping, Sequence

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Key

from ._matrix import dense, Int8Matrix, LowRankMatrix, Matrix, shape_of, to_int8
from ._transformer import Transformer
from ._weights import PROJECTIONS


def lora(
    policy: Transformer,
    projections: Sequence[str] = PROJECTIONS,
    *,
    rank: int,
    alpha: float | int,
    key: Key[Array, ""],
) -> Transformer:
    """The policy with low-rank adapters, which are then all of it that is trained.

        x W  becomes  x W + (alpha / rank) · (x A) B

    `A` is uniform in ±1/√inputs, as PEFT draws it, and `B` is zero: the adapted policy
    is the policy. Adapters are float32, whatever the dtype of the weights.

    **Arguments:**

    - `policy`: its weights may be 8 bits (`quantize`).
    - `projections`: which of `query`, `key`, `value`, `output`, `gate`, `up`, `down`.
    - `rank`, `alpha`: of every adapter.
    - `key`: draws `A`; a projection's does not depend on which others there are.

    **Raises:** `ValueError` for a rank below 1, an alpha that is not positive, and
    projections that do not exist or have an adapter.

    !!! example

        ```python
        adapted = lora(policy, ("query", "value"), rank=16, alpha=32, key=key)
        state = grpojax.init(
            adapted, optimizer=optimizer, reference=without_adapters, key=key
        )
        ```
    """
    check_projections(projections)
    if rank < 1 or alpha <= 0:
        raise ValueError(
            "An adapter has a rank of at least 1 and a positive alpha. Received "
            f"rank={rank}, alpha={alpha}."
        )
    split = jr.split(key, len(PROJECTIONS))
    keys: dict[str, Array] = dict(zip(PROJECTIONS, split, strict=True))

    def draw(name: str) -> tuple[Array, Array]:
        layers, inputs, outputs = shape_of(vars(policy.layers)[name])
        shape, bound = (layers, inputs, rank), inputs**-0.5
        a = jr.uniform(keys[name], shape, jnp.float32, -bound, bound)
        return a, jnp.zeros((layers, rank, outputs), jnp.float32)

    return attach(policy, {name: draw(name) for name in projections}, float(alpha))


def attach(
    policy: Transformer, factors: Mapping[str, tuple[Array, Array]], alpha: float
) -> Transformer:
    """The policy with the given `A` and `B` of some of its projections."""

    def adapt(name: str, matrix: Matrix) -> Matrix:
        if name not in factors:
            return matrix
        if isinstance(matrix, LowRankMatrix):
            raise ValueError(
                f"A projection has one adapter. `{name}` has one of rank {matrix.rank} "
                "already: `merge` the policy, or take it `without_adapters`."
            )
        return LowRankMatrix(matrix, *factors[name], alpha)

    return _map(adapt, policy)


def merge(policy: Transformer) -> Transformer:
    """The policy with plain weights, in the dtype of its embedding.

    Adapters are added to what they adapt and 8 bits are written out; what is plain
    stays as it is. In 16 bits the sum is rounded: go on training with the adapters.
    """
    return _map(lambda _, matrix: dense(matrix, policy.embedding.dtype), policy)


def without_adapters(policy: Transformer) -> Transformer:
    """The base of an adapted policy: the same arrays, no copy of them.

    As the `reference` of `grpojax.init` it is what a KL penalty compares with.
    """
    base = lambda x: x.base if isinstance(x, LowRankMatrix) else x
    return _map(lambda _, matrix: base(matrix), policy)


def quantize(policy: Transformer) -> Transformer:
    """The policy with its projections in 8 bits, an absolute maximum to each output.

    Embedding, head, norms and biases stay as they are, and so do adapters. What has 8
    bits is frozen: `lora` gives such a policy something to train.
    """

    def narrow(matrix: Matrix) -> Matrix:
        if isinstance(matrix, LowRankMatrix):
            return dataclasses.replace(matrix, base=narrow(matrix.base))
        if isinstance(matrix, Int8Matrix):
            return matrix
        return to_int8(dense(matrix, jnp.float32))

    return _map(lambda _, matrix: narrow(matrix), policy)


def adapters(policy: Transformer) -> dict[str, LowRankMatrix]:
    """The projections that have an adapter, by name."""
    fields = vars(policy.layers)
    found = {name: fields[name] for name in PROJECTIONS}
    return {name: x for name, x in found.items() if isinstance(x, LowRankMatrix)}


def check_projections(projections: Sequence[str]) -> None:
    """Raises a `ValueError` unless these are some of a layer's projections."""
    for name in projections:
        if name not in PROJECTIONS:
            near = difflib.get_close_matches(name, PROJECTIONS, 1, 0)
            raise ValueError(
                f"Adapters belong to some of {', '.join(PROJECTIONS)}. Received "
                f"{name!r}: did you mean {near[0]!r}?"
            )
    if not projections:
        raise ValueError(
            f"Adapters belong to some of {', '.join(PROJECTIONS)}. Received none: name "
            "one at least."
        )


def _map(change: Callable[[str, Matrix], Matrix], policy: Transformer) -> Transformer:
    """Changes the matrix of every projection."""
    fields = vars(policy.layers)
    changed = {name: change(name, fields[name]) for name in PROJECTIONS}
    layers = dataclasses.replace(policy.layers, **changed)
    return eqx.tree_at(lambda p: p.layers, policy, layers)
